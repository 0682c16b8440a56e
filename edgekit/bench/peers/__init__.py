"""Other programs beside edgekit in the same run: `edgekit bench DIR --peer NAME`, one row for each of its settings.

A peer runs in an environment of its own, by its package's name, so that its needs are no needs of edgekit's. It reads
the same prompt of random tokens, looks at the same images, and takes its turn in the same rounds. Peers that read GGUF
are given the artifact's own files; the others make theirs from the checkpoint, once, whole.
"""

from __future__ import annotations

from edgekit.bench.peers.catalog import PEERS, Peer
from edgekit.bench.peers.environments import Environment, found
from edgekit.bench.peers.rows import rows
from edgekit.bench.peers.run import outcomes

__all__ = ["PEERS", "Environment", "Peer", "found", "outcomes", "rows"]
