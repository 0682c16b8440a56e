"""A cluster of two nodes on this machine's loopback that serves; run by the Python of an environment that has ray.

    python tests/ray_cluster.py SETTINGS.json

Writes one line of JSON when it serves, and one behind every word that it reads: `kill` ends the second node as a power
cut does, `add` gives the cluster another one, `count` says how many replicas run. It ends with its input. Ray's files
and logs are in $TMPDIR, whose name must be short: sockets are among them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HEAD, SECOND, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4"
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


def main(settings: dict[str, Any]) -> None:
    """Begin, obey, end."""
    os.environ |= {
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "edgekit.serve.ray:middlewares",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(sys.path[1:]),
    }
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from edgekit.serve.ray import Settings, app

    head = {**NODE, "node_ip_address": HEAD, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(node_ip_address=SECOND, **NODE)
        ray.init(address=cluster.address, _node_ip_address=HEAD, log_to_driver=False)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": settings["port"]})
        serve.run(app(Settings(**settings)))
        say({"ready": True})
        for word in map(str.strip, sys.stdin):
            if word == "kill":
                say({"left": cut(node)})
            elif word == "add":
                cluster.add_node(node_ip_address=THIRD, **NODE)
                say({})
            elif word == "count":
                say({"running": replicas(serve)})
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def cut(node: Any) -> list[int]:
    """End a node's processes at once; those that they started themselves must find out, and are returned."""
    import psutil

    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    own = [raylet, *raylet.children()]
    left = [child.pid for process in own[1:] for child in process.children(recursive=True)]
    for process in own:
        process.kill()
    return left


def replicas(serve: Any) -> int:
    """How many replicas run."""
    (one,) = serve.status().applications.values()
    (deployed,) = one.deployments.values()
    return int(deployed.replica_states.get("RUNNING", 0))


def say(document: dict[str, Any]) -> None:
    """One line; the output that it goes to was the first, before anything of Ray's could write there."""
    ANSWERS.write(json.dumps({"at": time.time(), **document}) + "\n")
    ANSWERS.flush()


if __name__ == "__main__":
    ANSWERS = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
