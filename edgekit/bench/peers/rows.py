"""Rows of the table for peers, and for numbers of threads: measured for their times alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from edgekit.bench.cells import ModelRef, PeerRef, identity
from edgekit.bench.peers.catalog import Peer
from edgekit.bench.peers.environments import Environment
from edgekit.bench.subjects import Subject, TableRow
from edgekit.errors import UsageError
from edgekit.machine.cache import cache_folder
from edgekit.machine.cpu import cpu


def timed(measured: Sequence[Subject], threads: Sequence[int], peers: Sequence[Environment]) -> list[Subject]:
    """The same subjects with the rows that are only timed.

    Args:
        threads: numbers of them that each variant is measured with, beside all cores.
        peers: that take part.

    Raises:
        UsageError: a number of threads is none, or a peer can open none of these artifacts.
    """
    cores = cpu().usable_cores
    if wrong := [count for count in threads if not 1 <= count <= cores]:
        raise UsageError(f"{wrong[0]} threads", allowed=f"1 to {cores}, the cores that may be used here")
    found = []
    for subject in measured:
        variants = [row for row in subject.rows if row.kind == "variant" and row.tuned is None]
        swept = [_with_threads(row, count) for row in variants for count in dict.fromkeys(threads) if count != cores]
        beside = [row for environment in peers for row in rows(subject, environment)]
        found.append(replace(subject, timed=(*swept, *beside)))
    for environment in peers:
        peer = environment.peer
        if not any(row.model.peer and row.model.peer.name == peer.name for s in found for row in s.timed):
            raise UsageError(f"peer {peer.name}: it opens none of these artifacts", allowed=_needs(peer))
    return found


def _with_threads(row: TableRow, count: int) -> TableRow:
    name = f"{row.name}, {count} thread{'s' if count > 1 else ''}"
    return replace(row, name=name, model=replace(row.model, threads=count), key=identity("threads", row.key, count))


def _needs(peer: Peer) -> str:
    needed = "with a decoder in GGUF" if peer.takes == "gguf" else "whose checkpoint is here (--reference SOURCE)"
    return f"one {needed}, of a model that can {' or '.join(sorted(peer.abilities))}"


def rows(subject: Subject, environment: Environment) -> Iterator[TableRow]:
    """A peer's rows on one artifact: each of its settings on each level that it can open, or on the checkpoint."""
    peer = environment.peer
    if not peer.abilities & subject.abilities:
        return
    source = str(subject.source.resolve()) if subject.source else None
    made = cache_folder() / "peers" / "made" / f"{peer.name}-{subject.manifest.source.sha256[:16]}"
    version = environment.versions.get(peer.name, "") if not peer.packages else ""
    ref = PeerRef(peer.name, str(environment.program), source, str(made), version=version)
    for setting in peer.settings:
        label = ", ".join(word for word in (peer.title, setting) if word)
        chosen = replace(ref, setting=setting)
        key = identity("peer", peer.name, environment.versions, setting, subject.manifest.source.sha256)
        if peer.takes == "checkpoint":
            if source is not None:
                model = ModelRef(str(subject.folder.resolve()), peer=chosen)
                yield TableRow(label, "peer", model, key)
            continue
        seen = set()
        for row in subject.rows:
            decoder = gguf(subject.folder, subject, row)
            if row.kind == "variant" and row.tuned is None and decoder and decoder not in seen:
                seen.add(decoder)
                model = ModelRef(row.model.folder, row.level, peer=chosen)
                yield replace(row, name=f"{label}, {row.name}", kind="peer", model=model, key=identity(key, row.key))


def gguf(folder: Path, subject: Subject, row: TableRow) -> Path | None:
    """The first GGUF file of a row's decoder; None where it has none."""
    parts = subject.manifest.variant(row.level)[1].values() if row.level else ()
    files = [part.files[0].path for part in parts if part.output == "logits" and part.format == "gguf"]
    return folder / files[0] if files else None
