"""Matrix products of inference on a CPU: oneDNN's where torch would take MKL's.

torch multiplies float32 matrices with MKL, which keeps its fastest kernels to Intel processors;
oneDNN, which every CPU build of torch carries, does not.  On an AMD EPYC that is a factor of two
(`benchmarks/mamba_forward.py` prints it). Both round to float32.  With gradients, on other devices
and in other dtypes torch's own product runs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.pytorch_utils import Conv1D


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias: x (..., in), weight (out, in), bias (out,) or None -> (..., out)."""
    fits = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0
    given = (t for t in (x, weight, bias) if t is not None)
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    if not fits or learns or not has_onednn():
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def linear(module: Any, x: Tensor) -> Tensor:
    """What `module`, a torch.nn.Linear or a Conv1D of transformers, makes of x."""
    if isinstance(module, Conv1D):
        return module(x)
    return project(x, module.weight, module.bias)


@functools.cache
def has_onednn() -> bool:
    """Whether this build of torch has the product and it works here."""
    there = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not there or not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.arange(6.0).view(2, 3), torch.ones(4, 3)
    try:
        product = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    except RuntimeError:
        return False
    return torch.equal(product, x.sum(1, keepdim=True).expand(2, 4))
