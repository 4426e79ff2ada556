"""The HTTP routes, one module a feature."""
