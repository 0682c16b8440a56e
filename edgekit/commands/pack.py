"""`edgekit pack`: a signed bundle for a device, a repository of Hugging Face's hub, or an offline web app."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifacts.documents import is_folder
from edgekit.commands import Verb
from edgekit.commands.support.bundles import add_since
from edgekit.commands.support.options import FOLDER, add_levels, artifact
from edgekit.commands.support.passwords import add_password, password_of
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.errors import UsageError
from edgekit.progress import on_stderr, steps_on_stderr

if TYPE_CHECKING:
    from edgekit.pack.contents.base import About

_SIGNED = ("device", "key", "password_fd", "model_signing", "wheelhouse", "download", "python", "cpu")
_OF_A_BUNDLE = (*_SIGNED, "version", "minimum_version", "since")
# What is made -> the options that it has no use for.
_OTHERS = {
    "a bundle": ("onnxruntime_web",),
    "a repository of the hub": ("to", "onnxruntime_web", *_OF_A_BUNDLE),
    "a web app": ("level", "hub", "records", "base_model", *_OF_A_BUNDLE),
}


def add_options(parser: ArgumentParser) -> None:
    """What is packed, for which machine, under whose key."""
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help=f"{FOLDER}; for a web app the model of `edgekit compile-classifier`"
    )
    add_levels(parser, "a bundle has one, by default the artifact's; a repository of the hub all or these")
    parser.add_argument("--to", type=Path, metavar="BUNDLE", help="the bundle or the app: a new or an empty folder")
    parser.add_argument("--device", metavar="NAME", help="the device profile that a bundle is for")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the private key that signs it: edgekit keygen")
    add_password(parser, new=False)
    parser.add_argument(
        "--model-signing", action="store_true", help="sign the model in the OpenSSF's format too, by the same key"
    )
    parser.add_argument("--hub", type=Path, metavar="FOLDER", help="a repository for `hf upload` instead of a bundle")
    parser.add_argument("--target", choices=("device", "web"), default="device", help="a bundle, or a web app")
    group = parser.add_argument_group("a web app")
    group.add_argument(
        "--onnxruntime-web",
        type=Path,
        metavar="FOLDER",
        help="npm's package: npm pack onnxruntime-web && tar -xzf onnxruntime-web-*.tgz makes it, called `package`",
    )
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
        "--wheelhouse",
        type=Path,
        metavar="FOLDER",
        help="wheels for the device's platform, taken before others; edgekit's own is made of this one",
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
        metavar="N",
        help="where this bundle was installed, none of any name below this version can be any more (default: 1)",
    )
    add_since(group, "write only what an earlier bundle lacks, to update from it")


def run(options: Namespace) -> int:
    """Write the bundle, the repository or the app."""
    from edgekit.pack.contents.base import About

    if options.target == "web":
        return _web_app(options)
    artifact(str(options.folder))
    about = About(options.terms, options.records, options.base_model)
    if options.hub:
        return _lay_out(options, about)
    others = "--hub FOLDER for a repository of the hub, or --target web"
    _check(options, "a bundle", ("device", "key", "to"), others)
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
        minimum_version=1 if options.minimum_version is None else options.minimum_version,
        since=options.since,
        about=about,
        python=tuple(options.python),
        cpu=tuple(options.cpu),
        wheelhouse=options.wheelhouse,
        download=options.download,
        model_signing=options.model_signing,
        password=password_of(options.key, options),
    )
    progress = on_stderr() if options.json else steps_on_stderr(silent=False)
    bundle = build(options.folder, wanted, options.to, progress)
    there = [file for file in bundle.files if (options.to / file.path).is_file()]
    size = sum(file.bytes for file in there)
    if options.json:
        counted = {"files": len(bundle.files), "bytes": bundle.bytes, "brought_bytes": size}
        brought = [file.path for file in there]
        said = {"brought": brought, "unproven": _unproven(options.folder, options.level or [None])}
        print_json(bundle.model_dump(mode="json", exclude={"files"}) | counted | said)
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
            *_unproven_line(options.folder, options.level or [None]),
            f"verify    edgekit verify {options.to} --key {public_path(options.key)}{since}",
        ]
    )
    return 0


def _lay_out(options: Namespace, about: About) -> int:
    from edgekit.pack.hub import lay_out

    _check(options, "a repository of the hub")
    manifest = lay_out(options.folder, options.level, about, options.hub, on_stderr())
    if options.json:
        unproven = _unproven(options.folder, list(manifest.variants))
        print_json(manifest.model_dump(mode="json") | {"unproven": unproven})
        return 0
    print_lines(
        [
            f"levels    {', '.join(manifest.variants)}",
            *_unproven_line(options.folder, list(manifest.variants)),
            f"upload    hf upload OWNER/NAME {options.hub} .",
        ]
    )
    return 0


def _unproven(folder: Path, levels: Sequence[str | None]) -> list[str]:
    """Parts of these levels, of the default for None, that were never compared with full precision."""
    from edgekit.artifacts import manifest as manifests

    manifest = manifests.read(folder)
    parts = {part.id: part for level in levels for part in manifest.variant(level)[1].values()}
    return [f"{part.role} {part.level}" for part in parts.values() if part.parity is None]


def _unproven_line(folder: Path, levels: Sequence[str | None]) -> list[str]:
    if found := _unproven(folder, levels):
        return [f"unproven  {', '.join(found)}: {shlex.join(['edgekit', 'prove', str(folder)])} first, and pack again"]
    return []


def _web_app(options: Namespace) -> int:
    from edgekit.pack.web import build

    _check(options, "a web app", ("onnxruntime_web", "to"))
    if is_folder(options.folder):
        remedy = f"{shlex.join(['edgekit', 'compile-classifier', str(options.folder)])} --labels FILE --to MODEL.onnx"
        raise UsageError(f"{options.folder}: is a folder", allowed="a classifier's file, .onnx", remedy=remedy)
    app = build(options.folder, options.onnxruntime_web, options.to, options.terms)
    if options.json:
        print_json({"folder": str(app.folder), "bytes": app.bytes, "files": dict(app.files)})
        return 0
    print_lines(
        [
            f"{app.folder}: {len(app.files)} files, {app.bytes / 1e6:.1f} MB",
            f"try it     python -m http.server --bind 127.0.0.1 --directory {app.folder} 8000",
            "then open  http://localhost:8000/   (elsewhere by https, which threads and offline use need)",
        ]
    )
    return 0


def _check(options: Namespace, what: str, needed: Sequence[str] = (), remedy: str | None = None) -> None:
    """Raise UsageError for an option that is missing, or of no use."""
    if missing := [_word(name) for name in needed if getattr(options, name) is None]:
        name = "name it" if len(missing) == 1 else "name them"
        raise UsageError(f"{what} without {', '.join(missing)}", remedy=f"{name}{f', {remedy}' if remedy else ''}")
    if wrong := [_word(name) for name in _OTHERS[what] if getattr(options, name) not in (None, False, [])]:
        raise UsageError(f"{what} has no use for {', '.join(wrong)}", remedy="leave that out")


def _word(name: str) -> str:
    return f"--{name.replace('_', '-')}"


VERB = Verb(
    "make a signed bundle for a device, a repository for Hugging Face's hub, or a web app of a classifier",
    (
        "pack ./medgemma --level Q4_K_M --device laptop-16gb-cpu --key ./clinic.key --terms ./terms.txt --to ./bundle",
        "pack ./medgemma --level Q4_0 --device laptop-16gb-cpu --key ./clinic.key --terms ./terms.txt --since ./bundle "
        "--to ./update",
        "pack ./medgemma --hub ./repository --terms ./terms.txt",
        "pack findings.onnx --target web --onnxruntime-web ./package --to ./app",
    ),
    run,
    add_options,
    go_on="nothing is left of it: the same command begins again",
    order=108,
)
