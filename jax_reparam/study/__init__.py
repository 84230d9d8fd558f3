"""Studies: many runs, planned in a file, trained, and compared with intervals."""
