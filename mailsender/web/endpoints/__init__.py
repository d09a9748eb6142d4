"""Every endpoint, once: the routes and their description are both made from these tables."""
