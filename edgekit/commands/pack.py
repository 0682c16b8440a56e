"""`edgekit pack`: a signed bundle for a device, or a repository of Hugging Face's hub."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.commands import Verb
from edgekit.commands.support.bundles import add_since
from edgekit.commands.support.options import add_artifact, add_levels
from edgekit.commands.support.passwords import add_password, password_of
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.errors import UsageError
from edgekit.progress import on_stderr

if TYPE_CHECKING:
    from edgekit.pack.contents.base import About


def add_options(parser: ArgumentParser) -> None:
    """What is packed, for which machine, under whose key."""
    add_artifact(parser)
    add_levels(parser, "a bundle has one, by default the artifact's; a repository of the hub all or these")
    parser.add_argument("--to", type=Path, metavar="BUNDLE", help="the bundle: a new or an empty folder")
    parser.add_argument("--device", metavar="NAME", help="the device profile that a bundle is for")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the private key that signs it: edgekit keygen")
    add_password(parser, new=False)
    parser.add_argument(
        "--model-signing", action="store_true", help="sign the model in the OpenSSF's format too, by the same key"
    )
    parser.add_argument("--hub", type=Path, metavar="FOLDER", help="a repository for `hf upload` instead of a bundle")
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--terms",
        type=Path,
        metavar="FILE",
        help="the text of the model's terms of use, which its recipients must get, or the checkpoint's folder that has "
        "it",
    )
    group.add_argument("--records", type=Path, metavar="FILE", help="results of edgekit bench, for the model card")
    group.add_argument(
        "--base-model", metavar="NAME", help="owner/name of what was quantized, where the checkpoint does not say it"
    )
    group = parser.add_argument_group("the machine")
    group.add_argument(
        "--wheelhouse", type=Path, metavar="FOLDER", help="wheels for the device's platform, which are taken first"
    )
    group.add_argument(
        "--download",
        action="store_true",
        help="fetch wheels that are missing from the package index, and compile llama.cpp where it was not yet, which "
        "takes minutes",
    )
    group.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="3.X",
        help="a version of Python to bring wheels for (this one); may be repeated: any of them installs it",
    )
    group.add_argument(
        "--cpu",
        action="append",
        default=[],
        metavar="LEVEL",
        help="a level of processors to bring llama.cpp for (the device's own); may be repeated: the best is installed",
    )
    group = parser.add_argument_group("the version")
    group.add_argument("--version", type=int, metavar="N", help="counts up (default: 1, or one more than --since)")
    group.add_argument(
        "--minimum-version",
        type=int,
        default=1,
        metavar="N",
        help="where this bundle was installed, none of any name below this version can be any more (default: 1)",
    )
    add_since(group, "write only what an earlier bundle lacks, to update from it")


def run(options: Namespace) -> int:
    """Write the bundle, or the repository."""
    from edgekit.pack.contents.base import About

    about = About(options.terms, options.records, options.base_model)
    if options.hub:
        return _lay_out(options, about)
    if missing := [name for name in ("device", "key", "to") if getattr(options, name) is None]:
        words = ", ".join(f"--{name}" for name in missing)
        raise UsageError(f"a bundle without {words}", remedy="name them, or --hub FOLDER for a repository of the hub")
    if len(options.level) > 1:
        raise UsageError(f"a bundle of {len(options.level)} levels", allowed="one --level, or --hub FOLDER")
    return _build(options, about)


def _build(options: Namespace, about: About) -> int:
    from edgekit.pack.build import PackOptions, build
    from edgekit.pack.keys import public_path

    wanted = PackOptions(
        device=options.device,
        key=options.key,
        level=options.level[0] if options.level else None,
        version=options.version,
        minimum_version=options.minimum_version,
        since=options.since,
        about=about,
        python=tuple(options.python),
        cpu=tuple(options.cpu),
        wheelhouse=options.wheelhouse,
        download=options.download,
        model_signing=options.model_signing,
        password=password_of(options.key, options),
    )
    bundle = build(options.folder, wanted, options.to, on_stderr())
    there = [file for file in bundle.files if (options.to / file.path).is_file()]
    size = sum(file.bytes for file in there)
    if options.json:
        counted = {"files": len(bundle.files), "bytes": bundle.bytes, "brought_bytes": size}
        brought = [file.path for file in there]
        print_json(bundle.model_dump(mode="json", exclude={"files"}) | counted | {"brought": brought})
        return 0
    brings = f"{len(there)} files, {size / 1e6:.1f} MB"
    if options.since:
        brings += f" of {len(bundle.files)} files, {bundle.bytes / 1e6:.1f} MB"
    since = f" --since {options.since}" if options.since else ""
    print_lines(
        [
            f"bundle    {bundle.name}, version {bundle.version}",
            f"for       {bundle.platform}, {', '.join(bundle.cpu)}, Python {', '.join(bundle.python)}",
            f"brings    {brings}",
            f"verify    edgekit verify {options.to} --key {public_path(options.key)}{since}",
        ]
    )
    return 0


def _lay_out(options: Namespace, about: About) -> int:
    from edgekit.pack.hub import lay_out

    others = ("to", "device", "key", "since", "version", "wheelhouse")
    if wrong := [name for name in others if getattr(options, name) is not None]:
        raise UsageError(f"--hub beside --{wrong[0]}", allowed="a bundle, or a repository of the hub")
    manifest = lay_out(options.folder, options.level, about, options.hub, on_stderr())
    if options.json:
        print_json(manifest.model_dump(mode="json"))
        return 0
    print_lines(
        [
            f"levels    {', '.join(manifest.variants)}",
            f"upload    hf upload OWNER/NAME {options.hub} .",
        ]
    )
    return 0


VERB = Verb(
    "make a signed bundle for a device, or a repository for Hugging Face's hub",
    (
        "pack ./medgemma --level Q4_K_M --device laptop-16gb-cpu --key ./clinic.key --terms ./terms.txt --to ./bundle",
        "pack ./medgemma --level Q4_0 --device laptop-16gb-cpu --key ./clinic.key --terms ./terms.txt --since ./bundle "
        "--to ./update",
        "pack ./medgemma --hub ./repository --terms ./terms.txt",
    ),
    run,
    add_options,
    go_on="nothing is left of it: the same command begins again",
    order=108,
)
