"""Which blocks of a model have dictionaries: the words for it, and the numbers they stand for.

    "all"                every block
    [3, 7]               these, counted from 0; in one string also "0,3,5-7"
    "every 4"            the last of each four: 3, 7, 11, ...
    "0.25, 0.5, 0.75"    at these depths: for a depth d the block after which the share of blocks
                         passed, (layer + 1) / n_layers, is nearest to d; of two the earlier

The words say the same of models that differ in their number of blocks.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator

from homolog.errors import InputError

ALL = "all"
STREAM_AFTER = "resid"
"""The place of a block that dictionaries are of, where nothing else is said."""
MOST_LAYERS = 100_000
EXAMPLES = 'Give all, numbers as "0,3,5-7", "every 4", or depths as "0.25, 0.5".'
_EVERY = re.compile(r"every\s+(\d+)")
_NUMBERS = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")
_DEPTH = re.compile(r"\d*\.\d+|\d+\.")


def read_layers(given: Any, field: str = "layers") -> tuple[int, ...] | str:
    """Words or numbers in one form: "all", "every 4", numbers in order, or depths in order.

    InputError, about `field`, for what is none of these, nothing, and what is named twice.
    """
    words = given if isinstance(given, str) else _in_words(given)
    words = words.strip()
    if words == ALL:
        return ALL
    if every := _EVERY.fullmatch(words):
        if not 0 < int(every[1]) < MOST_LAYERS:
            requirement = f"of 1 to {MOST_LAYERS - 1} blocks the last can be taken"
            raise InputError(field, given, requirement, EXAMPLES)
        return f"every {int(every[1])}"
    parts = [part.strip() for part in words.split(",")]
    if all(_DEPTH.fullmatch(part) for part in parts):
        return _depths(given, parts, field)
    return _numbers(given, parts, field)


Layers = Annotated[tuple[int, ...] | str, BeforeValidator(read_layers)]
"""A setting of that kind."""


def chosen_layers(
    layers: tuple[int, ...] | str, n_layers: int, model: str, field: str = "layers"
) -> tuple[int, ...]:
    """The blocks of a model that has `n_layers`, in order; `layers` as `read_layers` gives them.

    InputError where the model does not have one of them, or two depths are the same block's.
    """
    has = f"{model} has layers 0 to {n_layers - 1}"
    if isinstance(layers, tuple):
        if unknown := [layer for layer in layers if layer >= n_layers]:
            raise InputError(field, unknown[0], has, "Choose of these.")
        return layers
    if layers == ALL:
        return tuple(range(n_layers))
    if every := _EVERY.fullmatch(layers):
        step = int(every[1])
        if step > n_layers:
            requirement = f"{has}, fewer than {step}"
            raise InputError(field, layers, requirement, "Take every so many of fewer.")
        return tuple(range(step - 1, n_layers, step))
    depths = [part.strip() for part in layers.split(",")]
    nearest = [_at_depth(Fraction(depth), n_layers) for depth in depths]
    for own, following, *ends in zip(nearest, nearest[1:], depths, depths[1:], strict=False):
        if own == following:
            requirement = f"{has}, and block {own} is the nearest to {' and to '.join(ends)}"
            raise InputError(field, layers, requirement, "Give depths that lie further apart.")
    return tuple(nearest)


def _at_depth(depth: Fraction, n_layers: int) -> int:
    """The block after which the share of blocks passed is nearest to `depth`."""
    return min(range(n_layers), key=lambda layer: abs(layer + 1 - depth * n_layers))


def _in_words(given: Any) -> str:
    """Numbers of a list as they would stand in one string; None, as files had it before, is all."""
    if given is None:
        return ALL
    numbers = list(given) if isinstance(given, list | tuple) else [given]
    return ",".join(map(str, numbers))


def _depths(given: Any, parts: list[str], field: str) -> str:
    values = sorted(map(Fraction, parts))
    if not all(0 < value <= 1 for value in values):
        requirement = "a depth is a share of the blocks, above 0 and at most 1"
        raise InputError(field, given, requirement, "Give for example 0.25, 0.5, 0.75.")
    if len(set(values)) < len(values):
        raise InputError(field, given, "no depth may be named twice", "Name each once.")
    return ", ".join(str(float(value)) for value in values)


def _numbers(given: Any, parts: list[str], field: str) -> tuple[int, ...]:
    layers: list[int] = []
    for part in parts:
        ends = _NUMBERS.fullmatch(part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, -1)
        requirement = ""
        if first > last:
            requirement = "it must be numbers and ranges, or all"
        elif last >= MOST_LAYERS:
            requirement = f"no model has {MOST_LAYERS} layers"
        if requirement:
            raise InputError(field, given, requirement, EXAMPLES)
        layers += range(first, last + 1)
    if len(set(layers)) < len(layers):
        raise InputError(field, given, "no block may be named twice", "Name each once.")
    return tuple(sorted(layers))
