"""Wiring: the only code, with the command line, that knows the order of the work."""
