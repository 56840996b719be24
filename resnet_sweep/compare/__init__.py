"""Tables, diffs, statistics and reports of runs, read from their directories alone."""
