"""How the reference models were trained: part of the repository, not of the package that is installed."""
