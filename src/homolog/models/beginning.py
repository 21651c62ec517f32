"""The token that windows begin with: read first, and absent from everything that comes back.

Many models were trained on texts that all begin with one token ("<bos>"), and rest their attention
on it.  A window is then a piece of text t_0 ... t_(n-1), and the model reads one token more:

    read          b  t_0  t_1  ...  t_(n-1)          position 0 is b's
    comes back       x_0  x_1  ...  x_(n-1)          x_i is what the model has at t_i

so that whoever asks a model sees windows of the same text, however it is read.  Sites that are
read or edited lack b (an attention pattern its query and its key), logits lack its row, and
positions count from t_0.  A pass that goes on from a residual stream reads b again: with causal
attention or a scan, what b leaves in the stream depends on nothing that comes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from homolog.errors import InputError
from homolog.models.sites import Site
from homolog.models.taps import Taps

AUTO, TRUE, FALSE = "auto", "true", "false"


def template(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer itself puts before a text, from its post-processor."""
    plain = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a", add_special_tokens=True)
    starts = range(len(whole) - len(plain) + 1)
    start = next((at for at in starts if whole[at : at + len(plain)] == plain), 0)
    return [int(token) for token in whole[:start]]


def known_beginning(tokenizer: Any) -> int | None:
    """The token that the tokenizer puts before a text, else its beginning of text, else None."""
    first = template(tokenizer)
    own = tokenizer.bos_token_id
    return first[0] if len(first) == 1 else None if own is None else int(own)


def chosen_beginning(name: str, tokenizer: Any, bos: str = AUTO) -> int | None:
    """The token that windows of a model begin with by the setting `bos`; None for none.

    auto: what the tokenizer's own template puts first.  InputError for true where the tokenizer
    has no such token, and for auto where it puts several first.
    """
    first: list[int] = []
    if tokenizer is not None and bos == AUTO:
        first = template(tokenizer)
    elif tokenizer is not None and bos == TRUE:
        known = known_beginning(tokenizer)
        first = [] if known is None else [known]
    if bos == TRUE and not first:
        requirement = f"the tokenizer of {name} has no token that texts begin with"
        raise InputError("bos", True, requirement, "Set bos = false, or leave it out.")
    if tokenizer is not None and len(first) > 1:
        named = ", ".join(map(str, tokenizer.convert_ids_to_tokens(first)))
        requirement = f"the tokenizer of {name} puts {len(first)} tokens first ({named})"
        remedy = "Windows can begin with one: set bos = true for its bos_token, or false for none."
        raise InputError("bos", bos, requirement, remedy)
    return first[0] if first else None


@dataclass
class BegunTaps(Taps):
    """The taps of a pass over one position more, the first, which is neither read nor edited."""

    text_from: ClassVar[int] = 1

    def read_positions(self, kind: str, layer: int, length: int) -> list[int]:
        return [at + 1 for at in super().read_positions(kind, layer, length - 1)]

    def edited_positions(self, kinds: Sequence[str], layer: int, length: int) -> list[int]:
        return [at + 1 for at in super().edited_positions(kinds, layer, length - 1)]

    def __call__(self, kind: str, layer: int | None, value: Tensor) -> Tensor:
        site = Site(kind, layer)
        if not self.touches(kind, layer):
            return value
        axes = [i for i, axis in enumerate(site.axes) if axis in ("position", "key_position")]
        text = value
        for axis in axes:
            text = _text(text, axis)
        text = super().__call__(kind, layer, text)
        # gradients at what was read need it to lie on the way
        return _around(value, text, axes) if site in self.edits or value.requires_grad else value

    def at(self, kind: str, layer: int, position: int, length: int, value: Tensor) -> Tensor:
        if position == 0:
            return value
        return super().at(kind, layer, position - 1, length - 1, value)

    def store(
        self, kind: str, layer: int, positions: list[int], value: Tensor, length: int
    ) -> None:
        super().store(kind, layer, [at - 1 for at in positions], value, length - 1)


def _text(value: Tensor, axis: int) -> Tensor:
    """The value without the first place along the axis."""
    return value.narrow(axis, 1, value.shape[axis] - 1)


def _around(value: Tensor, text: Tensor, axes: Sequence[int]) -> Tensor:
    """`value` with `text` in the place of what does not stand first along any of the axes."""
    if not axes:
        return text
    axis, *others = axes
    first, later = value.narrow(axis, 0, 1), _text(value, axis)
    return torch.cat([first, _around(later, text, others)], dim=axis)
