"""What a process writes of letters in flight, and what that of a dead one tells."""
