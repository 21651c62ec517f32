"""Residuals of two models on the same rows of a text, by default the held-out one (`quality`).

Rows are tokens; where the tokenizers differ, the last token of each unit (`corpus.units`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int

from homolog.analyses.material import Material
from homolog.analyses.units import alignment, rows_of
from homolog.features import capture

HELD_BYTES = 512 << 20
"""Residuals of one model that are read in one pass and held."""
Reader = Callable[[int], Float[torch.Tensor, "row d_model"]]


def residual_readers(
    material: Material, a: str, b: str, most: int | None = None, use: str = "quality"
) -> tuple[Reader, Reader, Int[np.ndarray, " row"]]:
    """What gives the residuals of a layer of either model, and the document of each row.

    Asked for layers in order it reads little.  most: the first rows alone: so many units, or the
    windows with so many tokens.  use: of the text, as `Material.windows` has it.
    """
    texts = material.texts_of(a, b)
    if texts is None:
        windows = material.windows(use, a)
        n = None if most is None else -(-most // windows.context)
        first, second = (_reader(material, use, name, n) for name in (a, b))
        return first, second, windows[:n].token_document
    aligned = alignment(material, texts, use)
    rows = (rows_of(aligned, texts, material.run.text_of(name))[1][:most] for name in (a, b))
    first, second = (
        _reader(material, use, name, rows=last) for name, last in zip((a, b), rows, strict=True)
    )
    return first, second, aligned.document[:most]


def _reader(
    material: Material,
    use: str,
    name: str,
    n_windows: int | None = None,
    rows: np.ndarray | None = None,
) -> Reader:
    """Residuals in the first windows, of all tokens or of these rows; several layers a pass."""
    model, layers = material.model(name), material.layers(name)
    windows = material.windows(use, name)[:n_windows]
    n_tokens = int(windows.mask.sum())
    together = max(1, HELD_BYTES // (4 * max(1, n_tokens) * model.d_model))

    @lru_cache(maxsize=1)
    def group(first: int) -> dict[int, torch.Tensor]:
        some = layers[first : first + together]
        loaded = material.model(name)  # another may have taken its place meanwhile
        values = capture(loaded, windows, [loaded.own_site(layer) for layer in some])
        return dict(zip(some, values, strict=True))

    def read(layer: int) -> torch.Tensor:
        place = layers.index(layer)
        x = group(place - place % together)[layer]
        return x if rows is None else x[torch.from_numpy(rows)]

    return read
