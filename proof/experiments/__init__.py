"""The experiments: each runs from a seed, and returns a row of the table."""
