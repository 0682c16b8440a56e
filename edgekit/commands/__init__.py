"""What each command does. Heavy libraries are imported where a command needs them, so that `--help` stays instant."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import UsageError
from edgekit.progress import Bars

if TYPE_CHECKING:
    from edgekit.artifacts.manifest import Manifest
    from edgekit.checkpoints.hub import Terms
    from edgekit.runtime.base import Generation


def setup(options: Namespace) -> int:
    """Build llama.cpp and try it."""
    from edgekit.runtime.llama import self_test as guard
    from edgekit.runtime.llama.build import setup as build

    result = build(force=options.force, amx=not options.no_amx)
    verdict = guard.verdict(fresh=not result.reused)
    verdict.require()
    if options.json:
        emit(
            {
                "version": result.version,
                "key": result.key,
                "wheel": str(result.wheel),
                "reused": result.reused,
                "seconds": round(result.seconds, 1),
                "buffers": verdict.outcome,
            }
        )
    else:
        origin = "taken from the cache" if result.reused else "built for this CPU"
        print(f"llama-cpp-python {result.version} {origin} in {result.seconds:.0f} s and tested: {result.system_info}")
        print(f"weights laid out for this CPU: {verdict}")
    if verdict.warning:
        print(f"edgekit: {verdict.warning}", file=sys.stderr)
    return 0


def export(options: Namespace) -> int:
    """Convert, prove, publish."""
    from edgekit.commands import describe
    from edgekit.inputs.samples import given_inputs
    from edgekit.prove import publish as artifact

    parts = dict(_part(text) for text in options.part)
    given = options.images or options.text
    done = artifact.export(
        _downloaded(options) if options.download else source_folder(options.source, options.revision),
        options.to,
        recipe_name=options.recipe,
        levels=options.level,
        parts=parts,
        prove=not options.no_prove,
        fresh=options.fresh,
        inputs=given_inputs(options.images, options.text) if given else None,
        progress=Bars(),
    )
    if options.json:
        emit(done.manifest.model_dump(mode="json"))
        return 0
    added = {part.id for part in done.added}
    print("\n".join(describe.artifact_lines(done.folder, done.manifest, only=added)))
    if not added:
        print("nothing new: every part was there already")
    for line in describe.usage_lines(done.folder, done.manifest):
        print(line)
    return 0


def prove(options: Namespace) -> int:
    """Prove an artifact that exists."""
    from edgekit.artifacts import manifest
    from edgekit.commands import describe
    from edgekit.inputs.samples import given_inputs
    from edgekit.prove import publish as artifact

    found = manifest.read(options.folder)
    source = source_folder(options.reference) if options.reference else reference_of(found)
    proven = artifact.prove(
        options.folder,
        source,
        levels=options.level,
        inputs=given_inputs(options.images, options.text),
        progress=Bars(),
    )
    if options.json:
        emit(proven.model_dump(mode="json"))
    else:
        print("\n".join(describe.artifact_lines(options.folder, proven)))
    return 0


def synthesize(options: Namespace) -> int:
    """Write a stand-in."""
    from dataclasses import asdict

    from edgekit.export.synthesize import synthesize as write

    done = write(
        options.recipe,
        options.folder,
        layers=options.layers,
        vision_layers=options.vision_layers,
        tokenizer=options.tokenizer,
        seed=options.seed,
        progress=Bars(),
    )
    if options.json:
        emit({key: str(value) if isinstance(value, Path) else value for key, value in asdict(done).items()})
        return 0
    print(f"{done.folder}: {done.label}")
    print(f"{done.tensors} tensors, {done.weights:,} weights, {done.bytes / 1e9:.2f} GB, seed {done.seed}")
    print(f"tokenizer: {done.tokenizer or 'generated'}")
    print(f"next: edgekit export {done.folder} --recipe {done.recipe} --to DIR")
    return 0


def adopt(options: Namespace) -> int:
    """Take in files that others made."""
    from edgekit.commands import describe
    from edgekit.export.adopt import adopt as take_in

    done = take_in(options.file, options.to, vision=options.mmproj, tokenizer=options.tokenizer)
    if options.json:
        emit(done.manifest.model_dump(mode="json"))
        return 0
    print("\n".join(describe.artifact_lines(done.folder, done.manifest)))
    print(f"tokenizer {done.differing} of {done.compared} texts get other ids than llama.cpp gives them")
    for line in describe.usage_lines(done.folder, done.manifest):
        print(line)
    return 0


def inspect(options: Namespace) -> int:
    """Show an artifact, and check its files against their hashes."""
    from edgekit.artifacts import manifest
    from edgekit.commands import describe

    found = manifest.read(options.folder)
    manifest.verify(options.folder, found.files)
    if options.json:
        emit(found.model_dump(mode="json"))
    else:
        print("\n".join(describe.artifact_lines(options.folder, found)))
        print("files     all as the manifest describes them")
    return 0


def ask(options: Namespace) -> int:
    """Answer a question, streaming."""
    from edgekit.inputs.image import load
    from edgekit.inputs.message import Image, Message
    from edgekit.runtime import open_model

    images = [Image(load(path)) for path in options.image]  # a bad image must not cost the time of loading a model
    model = open_model(options.folder, options.level, options.device, runtime=options.runtime)
    try:
        messages = [Message("system", options.system)] if options.system else []
        messages.append(Message("user", *images, options.question))
        answer: Generation | None = None
        for piece in model.generate(messages, max_tokens=options.max_tokens):
            if not isinstance(piece, str):
                answer = piece
            elif not options.json:
                print(piece, end="", flush=True)
    finally:
        model.close()
    assert answer is not None  # generate always ends with the finished answer
    if options.json:
        from dataclasses import asdict

        emit({**asdict(answer), "runtimes": dict(model.runtimes)})
    else:
        print()
        for warning in answer.warnings:
            print(f"edgekit: {warning}", file=sys.stderr)
    return 0


def classify(options: Namespace) -> int:
    """Score labels for images."""
    from edgekit.inputs.image import load
    from edgekit.runtime import open_model

    for path in options.images:  # a bad image must not cost the time of loading a model
        load(path)
    model = open_model(options.folder, options.level, options.device, runtime=options.runtime)
    width = max(map(len, options.label))
    try:
        for path in options.images:
            (row,) = model.classify([path], options.label)
            named = {label: round(float(score), 6) for label, score in zip(options.label, row, strict=True)}
            best = max(named, key=lambda label: named[label])
            if options.json:
                print(json.dumps({"file": str(path), "label": best, "scores": named}, ensure_ascii=False), flush=True)
                continue
            print(path)
            for label, score in named.items():
                print(f"  {label:<{width}}  {score:.4f}{'  <' if label == best else ''}")
    finally:
        model.close()
    for warning in model.warnings:
        print(f"edgekit: {warning}", file=sys.stderr)
    return 0


def tune(options: Namespace) -> int:
    """Measure runtimes and options."""
    from edgekit.tuning import tune as tuning

    found = tuning.tune(options.folder, options.level, options.device, fresh=options.fresh, progress=Bars())
    if options.json:
        emit([one.to_dict() for one in found])
    else:
        print("\n".join(line for one in found for line in one.lines()))
    return 0


def bench(options: Namespace) -> int:
    """Measure artifacts."""
    from edgekit import bench as measuring

    sweep = measuring.Sweep(
        options.folders,
        levels=options.level,
        checkpoints=[source_folder(name) for name in options.reference],
        tasks=options.task,
        data=options.data,
        rounds=options.rounds,
    )
    results = measuring.bench(sweep, work=options.to and options.to / "work")
    if options.to:
        measuring.write(results, options.to)
    print(measuring.as_json(results) if options.json else measuring.markdown(results))
    return 0 if results.shows_damage and not results.errors else 1


def list_(options: Namespace) -> int:
    """List levels, recipes, devices or tasks."""
    from edgekit.commands import describe

    rows = describe.LISTS[options.kind]()
    if options.json:
        emit(rows)
    else:
        print("\n".join(describe.table(rows)))
    return 0


def doctor(options: Namespace) -> int:
    """Show this machine."""
    from edgekit.commands.doctor import diagnose

    report = diagnose()
    if options.json:
        emit(report.to_dict())
    else:
        print(report)
    return 0


def demo(options: Namespace) -> int:
    """Run the main job."""
    from edgekit.commands.demo import run

    return run(options.to, options.data, Bars(), as_json=options.json)


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "setup": setup,
    "export": export,
    "prove": prove,
    "synthesize": synthesize,
    "adopt": adopt,
    "inspect": inspect,
    "ask": ask,
    "classify": classify,
    "tune": tune,
    "bench": bench,
    "list": list_,
    "doctor": doctor,
    "demo": demo,
}


def reference_of(found: Manifest) -> Path:
    """The reference model that an artifact was made from. Raises UsageError where it was made from another source."""
    from edgekit import reference_models as reference
    from edgekit.checkpoints.checkpoint import open_checkpoint

    for name in reference.NAMES:
        folder = reference.path(name)
        if folder and open_checkpoint(folder).sha256 == found.source.sha256:
            return folder
    raise UsageError(
        "the checkpoint that this artifact was made from is not known", remedy="name it with --reference SOURCE"
    )


def source_folder(name: str, revision: str | None = None) -> Path:
    """A checkpoint folder, a reference model by name, or a model of the hub in the local cache.

    Raises:
        UsageError: it is none of them.
        HubError: the cache does not have it.
    """
    from edgekit import reference_models as reference
    from edgekit.checkpoints import hub

    if revision and (Path(name).is_dir() or not hub.is_id(name)):
        raise UsageError(f"--revision {revision} of {name}", allowed="a model of the hub, as owner/name")
    if Path(name).is_dir():
        return Path(name)
    if found := reference.path(name):
        return found
    if hub.is_id(name):
        return hub.cached(name, revision)
    raise UsageError(
        f"{name}: no such checkpoint folder",
        allowed=f"a folder, a model of the hub as owner/name, or one of {', '.join(reference.NAMES)}",
    )


def _downloaded(options: Namespace) -> Path:
    """A model of the hub, fetched; afterwards this process is offline again."""
    from edgekit.checkpoints import hub

    if not hub.is_id(options.source):
        raise UsageError(f"--download {options.source}", allowed="a model of the hub, as owner/name")
    folder = hub.fetch(options.source, options.revision, accept=partial(_accept, options.accept_terms))
    hub.go_offline()
    return folder


def _accept(accepted: bool, terms: Terms) -> bool:
    """Show the terms; they are accepted with the option, or by a yes at a terminal."""
    print(f"{terms.repository} is provided under the {terms.name}: {terms.url}", file=sys.stderr)
    if accepted or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return accepted
    print("Do you accept them? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def emit(data: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(data, indent=1, ensure_ascii=False))


def _part(text: str) -> tuple[str, str]:
    role, separator, level = text.partition("=")
    if not separator or not role or not level:
        raise UsageError(f"--part {text}", allowed="ROLE=LEVEL, for example vision=BF16")
    return role, level
