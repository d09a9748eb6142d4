"""A letter as the octets of a message."""
