"""Token ids as a model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from homolog.axes import Tokens
from homolog.errors import InputError

TokensLike = Tensor | np.ndarray | Sequence[Any]
"""Windows of token ids, (batch, position): integers of any dtype, or lists of equal length."""


def as_tokens(tokens: TokensLike, field: str = "tokens") -> Tokens:
    """The same ids as an int64 tensor (batch, position).

    InputError, with `field` for its field: windows of different lengths, an empty batch or window,
    another number of axes, and whatever is no integer: floats and booleans are never rounded or
    counted.
    """
    ids = tokens if isinstance(tokens, Tensor) else _tensor(tokens, field)
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise _refused(field, str(ids.dtype).removeprefix("torch."), "token ids are integers")
    if ids.ndim != 2 or 0 in ids.shape:
        why = "their shape is (batch, position), with a window and a token at least"
        raise _refused(field, tuple(ids.shape), why)
    return ids.long()


def _tensor(tokens: Any, field: str) -> Tensor:
    try:
        return torch.from_numpy(np.array(tokens))
    except (TypeError, ValueError, OverflowError) as error:
        lengths = [len(row) if hasattr(row, "__len__") else None for row in tokens][:8]
        said = f"{type(error).__name__}: {error}"
        why = f"token ids are integers in windows of one length ({said})"
        if len(set(lengths)) > 1:
            why = f"windows have one length; these have {', '.join(map(str, lengths))}"
        raise _refused(field, type(tokens).__name__, why) from None


def _refused(field: str, value: object, why: str) -> InputError:
    remedy = "Give an int64 tensor (batch, position) of windows of one length, without padding."
    return InputError(field, value, why, remedy)
