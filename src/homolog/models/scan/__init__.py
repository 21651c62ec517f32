"""Selective scan of Mamba-1: forward and backward, every state readable, and its linearity in the
writes.
"""

from homolog.models.scan.linear import propagate, response
from homolog.models.scan.selective import ScanResult, selective_scan

__all__ = ["ScanResult", "propagate", "response", "selective_scan"]
