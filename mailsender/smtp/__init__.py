"""The dialogue with a relay."""
