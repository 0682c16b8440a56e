"""Pictures and series by their vectors: many files to rows, rows to an index on disk, and what is alike."""
