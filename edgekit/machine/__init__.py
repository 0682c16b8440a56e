"""The machine that edgekit runs on: CPU, memory, device profiles."""
