"""All settings, a module for each part of the service: their names, kinds, bounds and meanings."""
