"""How the service is doing, for people and programs."""
