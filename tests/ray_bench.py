"""A benchmark on a cluster of two nodes on this machine's loopback; run by the Python of an environment that has ray.

    python tests/ray_bench.py SETTINGS.json

Settings: `sweep` as `Sweep` takes it, `work`, `kill` (after how many outcomes the second node is ended as by a power
cut; null for never), `tag` (of the second node, null for none), `results` (the file that they are written to). Ray's
files are in $TMPDIR, whose name must be short.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_cluster import cut

HEAD, SECOND = "127.0.0.2", "127.0.0.3"
NODE = {"num_cpus": 2, "object_store_memory": 80_000_000}


def main(settings: Mapping[str, Any]) -> None:
    """Begin, measure, end."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    import ray
    from ray.cluster_utils import Cluster as Nodes

    from edgekit.bench import Sweep, as_json, bench
    from edgekit.bench.execute.ray import Cluster

    tags = {"resources": {f"device:{settings['tag']}": 1}} if settings.get("tag") else {}
    head = {**NODE, "node_ip_address": HEAD, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args=head)
    try:
        second = nodes.add_node(node_ip_address=SECOND, **NODE, **tags)
        ray.init(address=nodes.address, _node_ip_address=HEAD, log_to_driver=False)
        executor = Cluster(nodes.address)
        ended = ends_a_node(executor, second, settings["kill"]) if settings["kill"] is not None else None
        given = {**settings["sweep"], "artifacts": [Path(path) for path in settings["sweep"]["artifacts"]]}
        results = bench(Sweep(**given, ray=nodes.address), work=Path(settings["work"]), executor=executor)
        if ended:
            assert ended.is_set(), "the node outlived the benchmark"
        Path(settings["results"]).write_text(as_json(results), encoding="utf-8")
    finally:
        ray.shutdown()
        nodes.shutdown()


def ends_a_node(executor: Any, node: Any, after: int) -> threading.Event:
    """End the node when so many outcomes came in."""
    ended, came, run = threading.Event(), [], executor.run

    def counting(cells: Any, report: Any, *, alone: bool = False) -> None:
        def counted(cell: Any, outcome: Any) -> None:
            report(cell, outcome)
            came.append(outcome)
            if len(came) == after and not ended.is_set():
                cut(node)
                ended.set()

        run(cells, counted, alone=alone)

    executor.run = counting
    return ended


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
