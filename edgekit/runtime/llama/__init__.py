"""llama.cpp: built, tested, and run."""
