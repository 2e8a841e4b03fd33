"""Measurements against other implementations; each module but the shared ones is a command."""
