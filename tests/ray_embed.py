"""An archive embedded by a cluster of two nodes on this machine's loopback; run by a Python that has ray.

    python tests/ray_embed.py SETTINGS.json

Settings: `verb` (words of edgekit's, to which `--ray ADDRESS` is added), `kill` (after how many paths the second node
is ended as by a power cut; null for never). Ray's files are in $TMPDIR, whose name must be short. Ends with edgekit's
exit code.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray_cluster import cut

HEAD, SECOND = "127.0.0.2", "127.0.0.3"
NODE = {"num_cpus": 2, "object_store_memory": 80_000_000}


def main(settings: Mapping[str, Any]) -> int:
    """Begin, embed, end."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    import ray
    from ray.cluster_utils import Cluster as Nodes

    from edgekit.cli import main as edgekit
    from edgekit.retrieval.cluster import Cluster

    nodes = Nodes(initialize_head=True, head_node_args={**NODE, "node_ip_address": HEAD, "include_dashboard": False})
    try:
        second = nodes.add_node(node_ip_address=SECOND, **NODE)
        ray.init(address=nodes.address, _node_ip_address=HEAD, log_to_driver=False)
        embed = Cluster.__call__

        def counting(cluster: Any, paths: Iterable[Path]) -> Iterator[Any]:
            for number, found in enumerate(embed(cluster, paths), 1):
                yield found
                if number == settings["kill"]:
                    cut(second)

        Cluster.__call__ = counting  # type: ignore[method-assign]
        return edgekit([*settings["verb"], "--ray", nodes.address])
    finally:
        ray.shutdown()
        nodes.shutdown()


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
