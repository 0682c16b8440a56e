"""The command line: options, exit codes, progress bars. What the commands do stands in `edgekit.commands`.

Exit codes: 0 success, 1 an error or a failed gate, 2 wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit import __version__
from edgekit.errors import EdgekitError, MissingDependencyError
from edgekit.machine.cpu import limit_openmp_spin

INTERRUPTED = 130

AddCommand = Callable[..., argparse.ArgumentParser]  # (name, summary, *examples)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="edgekit",
        description="Convert MedGemma and MedSigLIP for the edge, prove them against the originals, measure the loss.",
        epilog="edgekit COMMAND --help shows each command's options and examples.",
    )
    top.add_argument("--version", action="version", version=f"edgekit {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, *examples: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  edgekit {example}" for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
        return added

    _making(command)
    _using(command)
    _measuring(command)
    return top


def _making(command: AddCommand) -> None:
    """Commands that make artifacts and look at them."""
    setup = command("setup", "build and test the llama.cpp runtime for this CPU", "setup", "setup --force")
    setup.add_argument("--force", action="store_true", help="compile even when the cache has this build")
    setup.add_argument("--no-amx", action="store_true", help="leave out the tile unit of recent Intel CPUs")

    export = command(
        "export",
        "convert a checkpoint into a proven artifact",
        "export ./medgemma-4b-it --recipe medgemma-4b --to ./medgemma",
        "export medsiglip-reference --to ./medsiglip --level int8",
        "export google/medgemma-4b-it --download --recipe medgemma-4b --to ./medgemma",
    )
    export.add_argument(
        "source", metavar="SOURCE", help="a checkpoint folder, a model of the hub (owner/name), or a reference model"
    )
    export.add_argument("--download", action="store_true", help="fetch a model of the hub; without it, only its cache")
    export.add_argument("--revision", metavar="NAME", help="the hub's branch, tag or commit (default: main)")
    export.add_argument("--accept-terms", action="store_true", help="accept the terms of use of a model of the hub")
    export.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="the artifact's folder; its levels add up"
    )
    export.add_argument("--recipe", metavar="NAME", help="which model it is, where its config.json does not tell")
    _levels(export, "a variant of the recipe; without any, all but the largest, which its `on_request` names")
    export.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="ROLE=LEVEL",
        help="give a part another level than the variant does; may be repeated",
    )
    export.add_argument("--no-prove", action="store_true", help="publish without comparing; every open will say so")
    export.add_argument("--fresh", action="store_true", help="forget what an interrupted run left")
    _proof_inputs(export, "calibrate and prove")

    prove = command(
        "prove",
        "compare an artifact with its original and record the result",
        "prove ./medgemma --reference ./medgemma-4b-it",
        "prove ./medsiglip --level int8",
    )
    prove.add_argument("folder", type=Path, metavar="DIR")
    _levels(prove, "a variant; all without any")
    prove.add_argument(
        "--reference", metavar="SOURCE", help="the checkpoint that it was made from; reference models are found without"
    )
    _proof_inputs(prove, "prove")

    synthesize = command(
        "synthesize",
        "write a random-weight checkpoint of a model's exact shape, to try everything that needs no knowledge",
        "synthesize medgemma-4b ./stand-in",
        "synthesize medgemma-27b ./slice --layers 7 --vision-layers 2 --tokenizer ./medgemma-27b-it",
    )
    synthesize.add_argument("recipe", metavar="RECIPE", help="the model (edgekit list recipes)")
    synthesize.add_argument("folder", type=Path, metavar="DIR", help="a new or an empty folder")
    synthesize.add_argument(
        "--layers", type=int, metavar="N", help="this many decoder layers (of MedSigLIP: text layers); all without it"
    )
    synthesize.add_argument("--vision-layers", type=int, metavar="N", help="this many layers of the vision tower")
    synthesize.add_argument(
        "--tokenizer", type=Path, metavar="DIR", help="copy the tokenizer from here; a generated one without it"
    )
    synthesize.add_argument("--seed", type=int, default=0, metavar="N", help="of the weights (default: 0)")

    adopt = command(
        "adopt",
        "make an artifact of GGUF files that others made, to ask and measure them",
        "adopt medgemma-4b-it-Q4_K_M.gguf --mmproj mmproj-F16.gguf --to ./theirs",
    )
    adopt.add_argument("file", type=Path, metavar="FILE", help="a Gemma 3 decoder, as llama.cpp or Ollama keep it")
    adopt.add_argument("--mmproj", type=Path, metavar="FILE", help="its projector file; without it, it sees no images")
    adopt.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    adopt.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json; made from the file's vocabulary without it"
    )

    inspect = command(
        "inspect", "show what an artifact is and check its files", "inspect ./medgemma", "inspect ./medgemma --json"
    )
    inspect.add_argument("folder", type=Path, metavar="DIR")


def _using(command: AddCommand) -> None:
    """Commands that ask a model something."""
    ask = command(
        "ask",
        "ask a question, about images or without",
        'ask ./medgemma "Describe this X-ray" --image chest.png',
        'ask ./medgemma "What is a pneumothorax?" --level Q8_0',
    )
    ask.add_argument("folder", type=Path, metavar="DIR")
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument("--image", action="append", default=[], type=Path, metavar="FILE", help="may be repeated")
    _one_level(ask)
    ask.add_argument("--system", metavar="TEXT", help="a system instruction; MedGemma was evaluated without one")
    ask.add_argument("--max-tokens", type=int, default=512, metavar="N", help="the output budget (default: 512)")

    classify = command(
        "classify", "score labels for images", 'classify ./medsiglip chest.png --label "normal lungs" --label pneumonia'
    )
    classify.add_argument("folder", type=Path, metavar="DIR")
    classify.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    classify.add_argument("--label", action="append", required=True, metavar="TEXT", help="may be repeated")
    _one_level(classify)

    tune = command(
        "tune",
        "measure which runtime and options are the fastest here, for every later open",
        "tune ./medgemma",
        "tune ./medsiglip --level int8 --fresh --json",
    )
    tune.add_argument("folder", type=Path, metavar="DIR")
    _levels(tune, "a variant; the recipe's default without any")
    tune.add_argument("--device", metavar="NAME", help="obey a device profile's cores")
    tune.add_argument("--fresh", action="store_true", help="measure again what was measured before")


def _measuring(command: AddCommand) -> None:
    """Commands that measure, and that tell what there is."""
    bench = command(
        "bench",
        "measure artifacts against the full-precision model",
        "bench ./medgemma ./medsiglip --data ../data",
        "bench ./medgemma --level Q4_0 --task finding-phantom",
    )
    bench.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    _levels(bench, "a variant; all without any")
    bench.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="SOURCE",
        help="a checkpoint that an artifact was made from; may be repeated",
    )
    bench.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="a task (edgekit list tasks); all that fit without any",
    )
    bench.add_argument("--data", type=Path, metavar="DIR", help="the folder of real test data")
    bench.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="latency rounds, interleaved over the rows (default: 5)"
    )
    bench.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="write results.json, report.md and report.html here; an interrupted run goes on from it",
    )

    listing = command("list", "list what can be named", "list levels", "list recipes --json")
    listing.add_argument("kind", choices=("levels", "recipes", "devices", "tasks"))

    command("doctor", "show this machine, its libraries and what each can do here", "doctor", "doctor --json")

    demo = command(
        "demo", "run the main job on the reference models, end to end", "demo", "demo --to /tmp/demo --data ../data"
    )
    demo.add_argument("--to", type=Path, default=Path("demo"), metavar="DIR", help="where to write (default: ./demo)")
    demo.add_argument("--data", type=Path, metavar="DIR", help="the folder of real test data")


def _levels(command: argparse.ArgumentParser, summary: str) -> None:
    command.add_argument("--level", action="append", default=[], metavar="NAME", help=f"{summary}; may be repeated")


def _proof_inputs(command: argparse.ArgumentParser, purpose: str) -> None:
    command.add_argument("--images", type=Path, metavar="DIR", help=f"images to {purpose} with; phantoms without it")
    command.add_argument("--text", type=Path, metavar="FILE", help=f"text to {purpose} with; a shipped one without it")


def _one_level(command: argparse.ArgumentParser) -> None:
    command.add_argument("--level", metavar="NAME", help="a variant; the recipe's default without it")
    command.add_argument("--device", metavar="NAME", help="obey a device profile's cores, context and memory")
    command.add_argument(
        "--runtime",
        metavar="NAME",
        help="of encoders in ONNX: onnxruntime, openvino or openvino-bf16; default: whatever was measured does not "
        "count (without it: $EDGEKIT_RUNTIME, or the fastest here by edgekit tune)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    limit_openmp_spin()
    if not getattr(options, "download", False):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing else here may reach for a network
    from edgekit import commands

    try:
        return commands.COMMANDS[options.command](options)
    except EdgekitError as error:
        report_error(error, options.json)
        return error.exit_code
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("edgekit"):
            raise
        missing = MissingDependencyError(f"{error.name} is not installed", remedy="pip install 'edgekit[export]'")
        report_error(missing, options.json)
        return missing.exit_code
    except KeyboardInterrupt:
        print("edgekit: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone: nobody is left to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a file that may not be read, a full disk
        report_error(EdgekitError(str(error), remedy="check the path, its permissions and free space"), options.json)
        return EdgekitError.exit_code


def report_error(error: EdgekitError, as_json: bool) -> None:
    """An error for people, or for programs, on standard error."""
    if as_json:
        fields = {"error": error.message, "allowed": error.allowed, "try": error.remedy, "kind": type(error).__name__}
        print(json.dumps({key: value for key, value in fields.items() if value}), file=sys.stderr)
    else:
        print(f"edgekit: {error}", file=sys.stderr)
