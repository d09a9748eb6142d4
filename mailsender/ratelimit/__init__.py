"""How fast may be sent, shared by all replicas."""
