"""The outside world behind the ports, one library each."""
