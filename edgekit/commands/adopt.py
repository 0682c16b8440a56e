"""`edgekit adopt`: take in files that others made."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_json, print_lines, print_warnings


def add_options(parser: ArgumentParser) -> None:
    """The files, and where the artifact goes."""
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a Gemma 3 decoder, as llama.cpp or Ollama keep it; DIR gets a hard link to it, or a copy where the disk "
        "has none",
    )
    parser.add_argument(
        "--mmproj", type=Path, metavar="FILE", help="its projector file, linked likewise; without it, it sees no images"
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json; made from the file's vocabulary without it"
    )


def run(options: Namespace) -> int:
    """Make the artifact, marked foreign and unproven."""
    from edgekit.commands.support.artifact_text import artifact_lines, usage_lines
    from edgekit.export.adopt import adopt

    adopted = adopt(options.file, options.to, vision=options.mmproj, tokenizer=options.tokenizer)
    print_warnings(adopted.notes)
    if options.json:
        print_json(adopted.manifest.model_dump(mode="json"))
        return 0
    folder = adopted.folder.resolve()  # so that what is printed runs anywhere
    compared = f"tokenizer {adopted.differing} of {adopted.compared} texts get other ids than llama.cpp gives them"
    mended = [f"mended    {adopted.mended}"] if adopted.mended else []
    prove = f"prove it with  {shlex.join(['edgekit', 'prove', str(folder), '--reference', 'SOURCE'])}"
    described, usage = artifact_lines(folder, adopted.manifest), usage_lines(folder, adopted.manifest)
    print_lines([*described, compared, *mended, prove, *usage])
    return 0


VERB = Verb(
    "make an artifact of GGUF files that others made, to ask and measure them",
    ("adopt medgemma-4b-it-Q4_K_M.gguf --mmproj mmproj-F16.gguf --to ./theirs",),
    run,
    add_options,
    go_on="nothing is left of it: the same command begins again",
    order=50,
)
