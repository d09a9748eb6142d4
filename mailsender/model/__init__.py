"""The words of the domain, and the ports to the world."""
