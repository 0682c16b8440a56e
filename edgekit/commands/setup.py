"""`edgekit setup`: build llama.cpp for this CPU, and for a GPU where one is named, and try what was built."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_json, print_lines, print_warnings
from edgekit.terminal import say


def add_options(parser: ArgumentParser) -> None:
    """How to build."""
    parser.add_argument("--force", action="store_true", help="compile even when the cache has this build")
    parser.add_argument("--no-amx", action="store_true", help="leave out the tile unit of recent Intel CPUs")
    parser.add_argument(
        "--gpu",
        metavar="KIND",
        help="build for a GPU, too, beside the build for the CPU: auto, metal, cuda or vulkan; none: use no such build "
        "any more",
    )


def run(options: Namespace) -> int:
    """Build or take from the cache, install, start it in a process of its own."""
    from edgekit.artifacts.disk_errors import file_errors
    from edgekit.machine.cache import cache_folder
    from edgekit.runtime.llama import gpu_build, gpu_kinds, gpu_setup, self_test
    from edgekit.runtime.llama.build import setup

    said: list[str] = []
    kind, why = gpu_kinds.chosen(options.gpu) if options.gpu else (None, "")
    if not kind and options.gpu == gpu_kinds.AUTO and not options.json:
        say(f"no build for a GPU: {why}")
    with file_errors(cache_folder()):
        if kind:  # what is missing is said at once, and not after the minutes that the CPU's build takes
            gpu_build.planned(kind, force=options.force, amx=not options.no_amx)
        built = setup(force=options.force, amx=not options.no_amx)
        tested = self_test.result(fresh=not built.reused)
        tested.require()
        document: dict[str, Any] = {
            "version": built.version,
            "key": built.key,
            "wheel": str(built.wheel),
            "reused": built.reused,
            "seconds": round(built.seconds, 1),
            "buffers": tested.outcome,
        }
        if not options.json:
            origin = "taken from the cache" if built.reused else "built for this CPU"
            how = f"{origin} in {built.seconds:.0f} s and tested: {built.system_info}"
            print_lines([f"llama-cpp-python {built.version} {how}", f"weights laid out for this CPU: {tested}"])
        if kind:
            gpu = gpu_setup.setup(kind, force=options.force, amx=not options.no_amx)
            document["gpu"] = gpu.to_dict()
            said = [f"{kind.title}: {why}"] if options.gpu == gpu_kinds.AUTO else []
            said += gpu.lines
        elif options.gpu:
            if options.gpu == gpu_kinds.NONE:
                gpu_build.forget()
            document["gpu"] = None
            said = [f"no build for a GPU: {why}"] if options.gpu == gpu_kinds.NONE else []
        if not options.json:
            print_lines(said)
    if options.json:
        print_json(document)
    print_warnings([tested.warning] if tested.warning else [])
    return 0


VERB = Verb(
    "build and test the llama.cpp runtime for this CPU",
    ("setup", "setup --force", "setup --gpu auto"),
    run,
    add_options,
    go_on="nothing was installed: the same command builds again",
    order=10,
)
