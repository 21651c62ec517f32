"""Selective scan of Mamba-1: forward and backward, with every state readable; linear in writes."""

from homolog.models.scan.inputs import ScanInputs
from homolog.models.scan.linear import propagate, response
from homolog.models.scan.selective import ScanResult, selective_scan

__all__ = ["ScanInputs", "ScanResult", "propagate", "response", "selective_scan"]
