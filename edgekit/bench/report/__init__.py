"""The report of a benchmark: for people as Markdown and as one HTML page, for programs as JSON."""
