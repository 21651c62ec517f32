"""Activations that are not finite: seen in what a pass returns, then traced to the first site that
has them.

Looking costs one sum over values that are there anyway: it is finite only where all of them are
(or, on overflow, an exact look decides).  Only where it is not, the window runs again and reads its
sites in the order of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from homolog.errors import InputError
from homolog.models.sites import Site

if TYPE_CHECKING:
    from homolog.models.base import LanguageModel

STREAM = ("embed", "resid_pre", "resid_mid", "resid")
Read = Callable[[int, list[Site]], tuple[Mapping[Site, Tensor], Tensor | None]]
"""From a window's index and sites: their values in a pass over that window alone, and its logits."""


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; one pass over them."""
    values = values.detach()
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    return bool(values.sum(dtype=wide).isfinite()) or bool(values.isfinite().all())


def require_finite(
    model: LanguageModel, found: Iterable[Tensor | None], read: Read, tokens: Tensor | None
) -> None:
    """InputError that names the model, the first site that is not finite, and the position with its
    token.

    found   what a pass without edits returned, (batch, ...) each
    read    runs one window of it again
    tokens  (batch, position), or None where the pass began from a residual stream
    """
    bad = next((value for value in found if value is not None and not all_finite(value)), None)
    if bad is None:
        return
    window = int((~bad.detach().isfinite()).flatten(1).any(1).int().argmax())
    site, value = _first(model, lambda sites: read(window, sites))
    at = (
        None
        if value is None
        else _first_place(value, 1 if site is None else site.axes.index("position"))
    )
    token = "" if tokens is None or at is None else f" (token {int(tokens[window, at])})"
    where = f"window {window}" if at is None else f"position {at}{token} of window {window}"
    logit = "" if site is not None or value is None or at is None else _which_logit(value[0, at])
    found_at = f"{site or 'the logits'}, at {where}{logit}"
    half = next(model.hf.parameters()).dtype in (torch.float16, torch.bfloat16)
    raise InputError(
        "model",
        model.name,
        f"what it computes must be finite; the first in the pass that is not: {found_at}",
        "Load it with dtype float32: half precision may be too narrow for it."
        if half
        else "Fetch or save its weights again, or take another model.",
    )


def _first(
    model: LanguageModel, read: Callable[[list[Site]], tuple]
) -> tuple[Site | None, Tensor | None]:
    """The first site that is not finite, with its value; (None, logits) where only the logits are
    not.
    """
    stream = [site for site in model.sites() if site.kind in ("embed", "resid")]
    values, logits = read(stream)
    last = next((site for site in stream if site in values and not all_finite(values[site])), None)
    if last is None:
        return None, None if logits is None or all_finite(logits) else logits
    block = [site for site in model.sites() if site.layer == last.layer]
    values, _ = read(block)
    first = next((site for site in block if site in values and not all_finite(values[site])), None)
    return (first, values[first]) if first is not None else (last, None)


def _first_place(value: Tensor, axis: int) -> int:
    bad = (~value.isfinite()).movedim(axis, 0).flatten(1).any(1)
    return int(bad.int().argmax())


def _which_logit(row: Tensor) -> str:
    token = int((~row.isfinite()).int().argmax())
    return f", where that of token {token} is {float(row[token])}"
