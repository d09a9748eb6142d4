"""What became of each letter, for its publisher."""
