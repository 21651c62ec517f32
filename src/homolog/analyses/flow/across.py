"""The orthogonal maps between the residual streams of two models, from residuals of one text.

They are fitted on the first `FITTED_TOKENS` tokens of the held-out text (`quality`); where the
tokenizers differ, on the last token of each unit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float

from homolog.analyses.flow import FITTED_TOKENS
from homolog.analyses.material import Material
from homolog.analyses.units import alignment, rows_of
from homolog.features import capture
from homolog.matching import Turn, procrustes

HELD_BYTES = 512 << 20
"""Residuals of one model that are read in one pass and held."""
Reader = Callable[[int], Float[np.ndarray, "token d_model"]]


def turns_between(material: Material, a: str, b: str) -> Callable[[int, int], Turn]:
    """What gives the map from a layer of `a` to a layer of `b`; asked in order, it reads little."""
    read_a, read_b = _readers(material, a, b)
    return lambda own, there: procrustes(read_a(own), read_b(there))


def _readers(material: Material, a: str, b: str) -> tuple[Reader, Reader]:
    """What gives the residuals of a layer of either model, on the same rows."""
    texts = material.texts_of(a, b)
    if texts is None:
        return _reader(material, a), _reader(material, b)
    aligned = alignment(material, texts, "quality")
    rows = (rows_of(aligned, texts, material.run.text_of(name))[1] for name in (a, b))
    first, second = (np.asarray(last)[:FITTED_TOKENS] for last in rows)
    return _reader(material, a, first), _reader(material, b, second)


def _reader(material: Material, name: str, rows: np.ndarray | None = None) -> Reader:
    """Residuals of the model: of these rows, or of the first tokens; several layers a pass."""
    model, layers = material.model(name), material.layers(name)
    windows = material.windows("quality", name)
    if rows is None:
        windows = windows[: -(-FITTED_TOKENS // windows.context)]
    n_tokens = int(windows.mask.sum())
    together = max(1, HELD_BYTES // (4 * max(1, n_tokens) * model.d_model))

    @lru_cache(maxsize=1)
    def group(first: int) -> dict[int, torch.Tensor]:
        some = layers[first : first + together]
        loaded = material.model(name)  # another may have taken its place meanwhile
        values = capture(loaded, windows, [loaded.own_site(layer) for layer in some])
        return dict(zip(some, values, strict=True))

    def read(layer: int) -> np.ndarray:
        place = layers.index(layer)
        x = group(place - place % together)[layer].numpy()
        return x if rows is None else x[rows]

    return read
