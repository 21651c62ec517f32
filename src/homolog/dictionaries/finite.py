"""Where a number that is not finite stands: a result computed from it is none."""

from __future__ import annotations

import math

import torch

from homolog.axes import Activations
from homolog.errors import InputError


def refuse_not_finite(x: Activations, what: str, first: int = 0) -> None:
    """InputError that names the first token of x (token, d_model) with NaN or infinity.

    what: how the error calls x.  first: the number of its first token.
    """
    if math.isfinite(float(x.sum())):  # fast: NaN and infinity do not leave a sum
        return
    bad = torch.nonzero(~torch.isfinite(x).all(1))
    if len(bad):
        token = int(bad[0, 0])
        value = float(x[token][~torch.isfinite(x[token])][0])
        requirement = f"every value must be finite, and that of token {first + token} is not"
        remedy = "Check the weights of the model, or run it in float32."
        raise InputError(what, value, requirement, remedy)
