"""`edgekit wheelhouse`: gather all that an installation on another machine takes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.progress import on_stderr


def add_options(parser: ArgumentParser) -> None:
    """For which machine, from where, and where to."""
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the wheels go")
    parser.add_argument("--device", metavar="NAME", help="the machine that they are for; this one without it")
    parser.add_argument(
        "--cpu",
        action="append",
        default=[],
        metavar="LEVEL",
        help="a kind of processor that llama.cpp is built for; the device's without any; may be repeated",
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="VERSION",
        help="a version of Python, such as 3.11; this one without any; may be repeated",
    )
    parser.add_argument(
        "--extra", action="append", default=[], metavar="NAME", help="an extra of edgekit's, beside install"
    )
    parser.add_argument(
        "--wheelhouse",
        type=Path,
        metavar="FOLDER",
        help="a folder of wheels that are taken before others; edgekit's own is made of this one",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch from the package index what is not here, and compile llama.cpp where it was not yet, which takes "
        "minutes",
    )
    parser.add_argument(
        "--constraint",
        type=Path,
        metavar="FILE",
        help="pip's file of versions to fetch; those that are installed here without it",
    )


def run(options: Namespace) -> int:
    """Gather them, print what there is."""
    from edgekit.artifacts.disk_errors import file_errors
    from edgekit.artifacts.files import sha256_file
    from edgekit.pack.wheelhouse import for_device, gather

    asked = replace(
        for_device(options.device, tuple(options.cpu), tuple(options.python)),
        extras=("install", *options.extra),
        given=options.wheelhouse,
        download=options.download,
        constraints=options.constraint,
    )
    with file_errors(options.to):
        rows = [
            (wheel.relative_to(options.to).as_posix(), wheel.stat().st_size, sha256_file(wheel))
            for wheel in gather(asked, options.to, on_stderr())
        ]
    if options.json:
        listed = [{"path": path, "bytes": size, "sha256": digest} for path, size, digest in rows]
        print_json({"platform": asked.platform, "cpu": asked.levels, "python": asked.python, "wheels": listed})
    else:
        megabytes = sum(size for _, size, _ in rows) / 1e6
        print_lines([*(path for path, _, _ in rows), f"{len(rows)} wheels, {megabytes:.0f} MB, in {options.to}"])
    return 0


VERB = Verb(
    "gather the wheels that an installation on another machine takes: edgekit, what it needs, llama.cpp built for it",
    (
        "wheelhouse --to ./wheels",
        "wheelhouse --device raspberry-pi-5 --download --to ./wheels",
        "wheelhouse --cpu x86-64-v2 --cpu x86-64-v3 --python 3.11 --python 3.12 --download --to ./wheels",
    ),
    run,
    add_options,
    go_on="a build that was finished is kept: the same command goes on from there",
)
