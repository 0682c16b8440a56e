"""What an artifact is: its manifest, recipes, levels, and how its files are found and written."""
