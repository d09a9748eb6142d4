"""Letters that wait, and who has them."""
