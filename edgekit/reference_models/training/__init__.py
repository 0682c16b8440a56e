"""How the reference models were trained."""
