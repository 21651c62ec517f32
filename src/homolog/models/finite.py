"""Activations that are not finite: seen in what a pass returns, then traced to their first site.

Looking costs one sum over values that are there anyway: it is finite only where all of them are
(or, on overflow, an exact look decides).  Only where it is not, the window runs again and reads its
sites in the order of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from homolog.errors import InputError
from homolog.models.sites import Site

STREAM = ("embed", "resid_pre", "resid_mid", "resid")
Values = tuple[Mapping[Site, Tensor], Tensor | None]
"""The values of sites, and the logits."""
ReadAgain = Callable[[int, list[Site]], Values]
"""From a window's index and sites: their values in a pass over that window alone."""


@dataclass(frozen=True)
class Pass:
    """A pass without edits, which can run again.

    model   its name
    sites   all of the model's, in the order of a pass
    half    whether the weights are in half precision
    read    runs one window of it again
    """

    model: str
    sites: list[Site]
    half: bool
    read: ReadAgain


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; one pass over them."""
    values = values.detach()
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    return bool(values.sum(dtype=wide).isfinite()) or bool(values.isfinite().all())


def require_finite(again: Pass, returned: Iterable[Tensor | None], tokens: Tensor | None) -> None:
    """InputError that names the model, its first site that is not finite, the position and token.

    returned   by the pass, (batch, ...) each
    tokens     (batch, position), or None where the pass began from a residual stream
    """
    bad = next((value for value in returned if value is not None and not all_finite(value)), None)
    if bad is None:
        return
    window = _first_place(bad.detach(), 0)
    site, value = _first(again, window)
    place, logit = f"window {window}", ""
    if value is not None:
        at = _first_place(value, 1 if site is None else site.axes.index("position"))
        token = "" if tokens is None else f" (token {int(tokens[window, at])})"
        place = f"position {at}{token} of {place}"
        if site is None:
            token_id = _first_place(value[0, at], 0)
            logit = f", where that of token {token_id} is {float(value[0, at, token_id])}"
    requirement = "what it computes must be finite; the first in the pass that is not"
    remedy = "Fetch or save its weights again, or take another model."
    if again.half:
        remedy = "Load it with dtype float32: half precision may be too narrow for it."
    where = f"{site or 'the logits'}, at {place}{logit}"
    raise InputError("model", again.model, f"{requirement}: {where}", remedy)


def _first(again: Pass, window: int) -> tuple[Site | None, Tensor | None]:
    """The first site that is not finite, and its value; (None, logits) where only those are not."""
    stream = [site for site in again.sites if site.kind in ("embed", "resid")]
    values, logits = again.read(window, stream)
    last = next((site for site in stream if site in values and not all_finite(values[site])), None)
    if last is None:
        return None, None if logits is None or all_finite(logits) else logits
    block = [site for site in again.sites if site.layer == last.layer]
    values, _ = again.read(window, block)
    first = next((site for site in block if site in values and not all_finite(values[site])), None)
    return (first, values[first]) if first is not None else (last, None)


def _first_place(value: Tensor, axis: int) -> int:
    """The first index along the axis at which something is not finite."""
    bad = (~value.isfinite()).movedim(axis, 0).reshape(value.shape[axis], -1).any(1)
    return int(bad.int().argmax())
