"""Which kernels run a scan: numba on CPUs, Triton on CUDA devices, a torch loop anywhere."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any, Literal

import torch

from homolog.errors import InputError

Backend = Literal["numba", "triton", "torch"]


def backend_of(device: torch.device) -> Backend:
    """The backend of a device, unless a user names another."""
    if device.type == "cpu":
        return "numba"
    has_triton = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    return "triton" if has_triton else "torch"


def kernels_of(backend: str, modules: Mapping[str, str]) -> Any:
    """The module of a backend; imported when used, since a CPU has no need of Triton."""
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        requirement = "Triton is not installed"
        raise InputError("backend", backend, requirement, "Use numba, or torch for another device.")
    return importlib.import_module(f"homolog.models.scan.{modules[backend]}")
