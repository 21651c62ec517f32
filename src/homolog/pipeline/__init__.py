"""Wiring: the only code, with the command line, that knows the order of the work."""

from homolog.pipeline.study import Study

__all__ = ["Study"]
