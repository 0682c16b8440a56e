"""`edgekit setup`: build llama.cpp for this CPU and try it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_json, print_lines, print_warnings


def add_options(parser: ArgumentParser) -> None:
    """How to build."""
    parser.add_argument("--force", action="store_true", help="compile even when the cache has this build")
    parser.add_argument("--no-amx", action="store_true", help="leave out the tile unit of recent Intel CPUs")


def run(options: Namespace) -> int:
    """Build or take from the cache, install, start it in a process of its own."""
    from edgekit.artifacts.disk_errors import file_errors
    from edgekit.machine.cache import cache_folder
    from edgekit.runtime.llama import self_test
    from edgekit.runtime.llama.build import setup

    with file_errors(cache_folder()):
        built = setup(force=options.force, amx=not options.no_amx)
        tested = self_test.result(fresh=not built.reused)
    tested.require()
    if options.json:
        print_json(
            {
                "version": built.version,
                "key": built.key,
                "wheel": str(built.wheel),
                "reused": built.reused,
                "seconds": round(built.seconds, 1),
                "buffers": tested.outcome,
            }
        )
    else:
        origin = "taken from the cache" if built.reused else "built for this CPU"
        how = f"{origin} in {built.seconds:.0f} s and tested: {built.system_info}"
        print_lines([f"llama-cpp-python {built.version} {how}", f"weights laid out for this CPU: {tested}"])
    print_warnings([tested.warning] if tested.warning else [])
    return 0


VERB = Verb(
    "build and test the llama.cpp runtime for this CPU",
    ("setup", "setup --force"),
    run,
    add_options,
    go_on="nothing was installed: the same command builds again",
    order=10,
)
