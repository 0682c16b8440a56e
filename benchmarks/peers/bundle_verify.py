"""How fast a bundle is verified, as a share of what this machine's cores can hash at all.

In each round, in turn: SHA-256 of memory by one thread a core (OpenSSL's, as Python has it), BLAKE3 of memory by all
cores (where `blake3` is installed), the bundle verified from the page cache, whole: signature, document, names, bytes.
Rates are bytes per second of wall time, and per second of the process's CPU time, which says the same on a busy machine
as far as the cores are used. From a disk or a stick it is that which bounds a verification.

    python benchmarks/peers/bundle_verify.py --gigabytes 1
    python benchmarks/peers/bundle_verify.py --bundle ./bundle --key ./clinic.key.pub
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobs import cell, ratios, spread, table, where

from edgekit.bench.environment import environment
from edgekit.machine.cpu import busy_cores, cpu
from edgekit.pack import document, keys, signature
from edgekit.pack.bundle import CHUNK_BYTES, Bundle
from edgekit.pack.verify import verify
from edgekit.progress import Progress

_PIECES = 4  # of a chunk's size, that each core hashes in a round


def hash_sha256(memory: bytes, cores: int) -> int:
    """All cores hash memory, each piece on one core; how many bytes."""
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda piece: hashlib.sha256(piece).digest(), [memory] * cores * _PIECES))
    return cores * _PIECES * len(memory)


def hash_blake3(memory: bytes, cores: int) -> int:
    """The same with BLAKE3, whose library takes the cores for one piece."""
    from blake3 import blake3

    for _ in range(cores * _PIECES):
        blake3(memory, max_threads=blake3.AUTO).digest()
    return cores * _PIECES * len(memory)


def verified(bundle: Path, key: Path) -> int:
    """The whole verification; how many bytes."""
    return verify(bundle, key, progress=Progress()).bytes


def rates(work: Callable[[], int]) -> dict[str, float]:
    """Bytes per second of wall time, and per second of CPU time, which other work takes little from."""
    wall, busy = time.perf_counter(), time.process_time()
    size = work()
    return {"wall": size / (time.perf_counter() - wall), "cpu": size / (time.process_time() - busy)}


def synthesized(folder: Path, gigabytes: float) -> tuple[Path, Path, Bundle]:
    """A bundle of one large file, one of a third of it, and a few hundred small ones; the public key."""
    folder.mkdir(exist_ok=True)
    keys.generate(folder / "key")
    bundle = folder / "bundle"
    (bundle / "model").mkdir(parents=True)
    sizes = {"model/decoder": 0.7, "model/vision": 0.25, **{f"model/small-{number:03}": 1e-4 for number in range(300)}}
    for path, share in sizes.items():
        left = int(share * gigabytes * 1e9)
        with (bundle / path).open("wb") as stream:
            while left:
                left -= stream.write(os.urandom(min(left, 1 << 22)))
    made = Bundle(
        name="synthesized", version=1, edgekit="0", title="random bytes", license="none", level="none", device="none",
        platform="linux-x86_64", cpu=("any",), python=("3.11",), source_sha256="0",
        files=tuple(document.describe(bundle, path) for path in sorted(sizes)),
    )  # fmt: skip
    signature.write(bundle, document.write(bundle, made), folder / "key")
    return bundle, keys.public_path(folder / "key"), made


def rounds(bundle: Path, key: Path, count: int) -> dict[str, Any]:
    """Every rate in every round, and the shares that verification has of the two hashes' rates."""
    cores, memory = cpu().usable_cores, os.urandom(CHUNK_BYTES)
    verified(bundle, key)  # into the page cache
    work = {
        "SHA-256": lambda: hash_sha256(memory, cores),
        **({"BLAKE3": lambda: hash_blake3(memory, cores)} if find_spec("blake3") else {}),
        "verify": lambda: verified(bundle, key),
    }
    samples = [{name: rates(do) for name, do in work.items()} for _ in range(count)]
    found = {(name, clock): [sample[name][clock] for sample in samples] for name in work for clock in ("wall", "cpu")}
    return {
        "rows": [
            {
                "what": name,
                "clock": clock,
                "bytes_per_s": spread(values, 0),
                "share": ratios(found["verify", clock], values),
            }
            for (name, clock), values in found.items()
        ],
        "samples": samples,
    }


def markdown(result: dict[str, Any]) -> str:
    """The table for people."""
    rows = [
        [
            row["what"],
            row["clock"],
            cell({name: value / 1e9 for name, value in row["bytes_per_s"].items()}, 2),
            cell(row["share"], 2),
        ]
        for row in result["rows"]
    ]
    said = f"{result['bytes'] / 1e9:.2f} GB in {result['files']} files, from the page cache, n = {result['rounds']}."
    busy = f"Other work kept {result['busy_cores_before']:.1f} cores busy before."
    head = ["", "clock", "GB/s", "verify's share of it"]
    return "\n".join([*table(head, rows), "", f"{said} {busy}", "", where(result["environment"])])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="a bundle (default: random bytes)")
    parser.add_argument("--key", type=Path, help="its public key")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of random bytes, where no bundle is named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if options.bundle:
            bundle, key, made = options.bundle, options.key, document.read(options.bundle)[0]
        else:
            bundle, key, made = synthesized(Path(work), options.gigabytes)
        result = {
            "what": __doc__,
            "environment": asdict(environment()),
            "busy_cores_before": busy_cores(),
            "bytes": made.bytes,
            "files": len(made.files),
            "rounds": options.rounds,
            **rounds(bundle, key, options.rounds),
        }
    print(markdown(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
