"""Confirmation codes: made, sent by a letter, and checked once."""
