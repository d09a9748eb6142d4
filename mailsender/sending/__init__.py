"""From a claimed letter to what became of it."""
