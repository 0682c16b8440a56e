"""A Ray cluster, joined by whoever shares work among its machines."""

from __future__ import annotations

import ray

from edgekit.errors import UsageError


def join(address: str) -> bool:
    """Join a cluster.

    Args:
        address: as `ray.init` takes it: HOST:PORT, or `auto` for the one that this machine belongs to.

    Returns:
        whether this was needed: who joined leaves by `ray.shutdown`.

    Raises:
        UsageError: there is no such cluster.
    """
    if ray.is_initialized():
        return False
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster answers at {address!r:.200}: {error}",
            remedy="ray start --head, or name another address",
        ) from error
    return True
