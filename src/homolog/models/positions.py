"""How many positions a model was made for, from its configuration."""

from __future__ import annotations

from typing import Any

import torch

from homolog.errors import InputError

_FIELDS = ("max_position_embeddings", "n_positions")
_MORE_ROWS = 8  # a table may begin with rows that stand for no position, as OPT's two


def n_positions(config: Any) -> int | None:
    """The configuration's `max_position_embeddings` or `n_positions`.

    None where there is no such number (recurrent models, whose `context_length` is what they were
    trained with), and where rotary frequencies follow the window's length ("dynamic").
    """
    text = config.get_text_config(decoder=True)
    fields = text.to_dict()
    given = next((fields[name] for name in _FIELDS if fields.get(name) is not None), None)
    follows = "dynamic" in rope_types(fields.get("rope_parameters"))
    return None if given is None or follows else int(given)


def rope_types(parameters: Any) -> set[str]:
    """Of the blocks together; some models have parameters for each kind of block."""
    if not isinstance(parameters, dict):
        return set()
    nested = set().union(*map(rope_types, parameters.values()))
    own = (parameters.get(name) for name in ("rope_type", "type"))
    return nested | {str(kind) for kind in own if kind}


def has_table(hf: Any, blocks: Any, n: int | None) -> bool:
    """Whether positions are a learned table.

    That is an embedding of n rows, beside that of the tokens and outside the blocks.
    """
    if n is None:
        return False
    inside = set(blocks.modules()) | {hf.get_input_embeddings()}
    tables = [m for m in hf.modules() if isinstance(m, torch.nn.Embedding) and m not in inside]
    return any(n <= table.num_embeddings <= n + _MORE_ROWS for table in tables)


def too_long(name: str, n: int, most: int, field: str, *, begun: bool = False) -> InputError:
    """The error for windows of n tokens where a model has `most` positions.

    begun: whether one of them is that of the token that windows begin with.
    """
    requirement = f"{name} has {most} positions"
    if begun:
        requirement += ", the first of them for the token that its windows begin with"
    left = most - 1 if begun else most
    return InputError(field, n, requirement, f"Use shorter windows: at most {left} tokens.")
