"""The reference models' weights, and how they were trained; see README.md. `edgekit.checkpoints` finds them by name."""
