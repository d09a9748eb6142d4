"""The queue in MongoDB."""
