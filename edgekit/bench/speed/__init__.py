"""Times and memory: how one model is timed, what its arithmetic costs, and what the machine allows at most."""
