"""The machine that edgekit runs on: CPU, memory, GPUs, device profiles, the cache folder, worker processes."""
