"""The rules of a kind, compiled for an engine: one source for numba, torch and Triton.

A rule is a function of scalars that calls `where` alone.  The same code with another `where` is a
function of tensors; compiled with numba's, it is inlined into the loops of `tokens` and
`elementwise`, which are compiled anew for each kind.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch

from homolog.compiled import jit
from homolog.dictionaries.kinds import Kind
from homolog.dictionaries.selection import _MATH
from homolog.dictionaries.training import elementwise, tokens

_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": _MATH, "error_model": "numpy"}


def with_names(function: Callable[..., Any], **names: Any) -> FunctionType:
    """The same code with other globals of these names."""
    code = inspect.unwrap(function)
    assert isinstance(code, FunctionType)
    return FunctionType(code.__code__, code.__globals__ | names, code.__name__)


def identity(q, p, a, b):
    """The `magnitude` of kinds whose features are their pre-activations."""
    return p


@functools.cache
def on_tensors(kind: Kind) -> tuple[Callable[..., torch.Tensor], Callable[..., tuple[Any, ...]]]:
    """`magnitude` and `slopes` of a kind as functions of tensors, which broadcast."""
    assert kind.rules is not None
    magnitude, slopes = kind.rules.magnitude or identity, kind.rules.slopes
    return with_names(magnitude, where=torch.where), with_names(slopes, where=torch.where)


@dataclass(frozen=True)
class CpuRules:
    """`values` and `slopes` of `tokens`, `features` and `slopes` of `elementwise`, of a kind."""

    values: Callable[..., None]
    slopes: Callable[..., float]
    dense_features: Callable[..., None]
    dense_slopes: Callable[..., float]


@functools.cache
def on_cpu(kind: Kind) -> CpuRules:
    """The loops of a kind, compiled when first called."""
    assert kind.rules is not None
    rules, n = kind.rules, len(kind.vectors)
    magnitude, slope = (_compiled(rule) for rule in (rules.magnitude or identity, rules.slopes))
    names = {"N_VECTORS": n, "SECOND": min(1, n - 1), "THIRD": min(2, n - 1)}
    names |= {"TWIN": rules.twin, "LOWERED": rules.low is not None}
    codes = [inspect.unwrap(rule).__code__ for rule in (rules.magnitude or identity, rules.slopes)]
    parts = [(c.co_code, c.co_consts, c.co_names, c.co_varnames) for c in codes]
    digest = hashlib.sha256(repr((names, parts)).encode()).hexdigest()[:16]
    templates = (tokens.values, tokens.slopes, elementwise.features, elementwise.slopes)
    made = []
    for template in templates:
        loop = with_names(template, magnitude=magnitude, slope=slope, **names)
        # kept machine code goes by this name, and by nothing of the rules inside
        loop.__qualname__ = f"{template.__name__}_{digest}"
        made.append(jit(**_OPTIONS)(loop))
    return CpuRules(*made)


@functools.cache
def _compiled(rule: Callable[..., Any]) -> Any:
    return jit(**_OPTIONS)(with_names(rule, where=_where))


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def _where(condition, a, b):
    return np.float32(a) if condition else np.float32(b)


@jit(nogil=True, fastmath=_MATH, error_model="numpy")
def exp(values):
    """e to these numbers, as the loops of `elementwise` round it."""
    out = np.empty_like(values)
    for i in range(values.size):
        out[i] = np.exp(values[i])
    return out
