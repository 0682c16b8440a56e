"""`edgekit inspect`: show an artifact, and check its files against their hashes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from edgekit.commands import Verb
from edgekit.commands.support.options import add_artifact
from edgekit.commands.support.printing import print_json, print_lines


def add_options(parser: ArgumentParser) -> None:
    """Which artifact."""
    add_artifact(parser)


def run(options: Namespace) -> int:
    """Read the manifest, hash the files, print what it says."""
    from edgekit.artifacts import manifest
    from edgekit.commands.support.artifact_text import artifact_lines, tuned_lines
    from edgekit.runtime.manifest_checks import check_variants

    described = manifest.read(options.folder)
    check_variants(described, options.folder / manifest.FILE_NAME)
    manifest.verify(options.folder, described.files)
    if options.json:
        print_json(described.model_dump(mode="json"))
    else:
        lines = [*artifact_lines(options.folder, described), *tuned_lines(described)]
        print_lines([*lines, "files     all as the manifest describes them"])
    return 0


VERB = Verb(
    "show what an artifact is and check its files",
    ("inspect ./medgemma", "inspect ./medgemma --json"),
    run,
    add_options,
    order=60,
)
