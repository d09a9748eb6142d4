"""Which relay takes letters, and whether it does."""
