"""`edgekit remove`: take levels out of an artifact."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from edgekit.commands import Verb
from edgekit.commands.support.options import add_artifact
from edgekit.commands.support.printing import print_json, print_lines


def add_options(parser: ArgumentParser) -> None:
    """Which levels of which artifact."""
    add_artifact(parser)
    parser.add_argument("--level", action="append", required=True, metavar="NAME", help="a variant; may be repeated")
    parser.add_argument("--default", metavar="NAME", help="the level to open when none is named, from now on")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")


def run(options: Namespace) -> int:
    """Remove them, with the files that no other level needs."""
    from edgekit.export.remove import remove

    removed = remove(options.folder, options.level, default=options.default, dry_run=options.dry_run)
    if options.json:
        print_json(
            {
                "removed": list(removed.levels),
                "parts": [f"{part.role} {part.level}" for part in removed.parts],
                "files": list(removed.files),
                "freed_bytes": removed.freed_bytes,
                "left": list(removed.manifest.variants),
                "default": removed.manifest.default,
                "dry_run": options.dry_run,
            }
        )
        return 0
    would = "would free" if options.dry_run else "freed"
    print_lines(
        [
            *removed.files,
            f"{would} {removed.freed_bytes / 1e6:.1f} MB: {', '.join(removed.levels)}",
            f"left: {', '.join(removed.manifest.variants)}; default: {removed.manifest.default}",
        ]
    )
    return 0


VERB = Verb(
    "take levels out of an artifact, with the files that no other needs",
    ("remove ./medgemma --level BF16 --level Q8_0", "remove ./medgemma --level Q4_0 --default Q4_K_M --dry-run"),
    run,
    add_options,
    order=65,
)
