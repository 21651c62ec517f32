"""What is left of a feature's activation when all but the last n tokens are exchanged.

    kept_f(n)  = sum_t min(a_f(t; n), a_f(t)) / sum_t a_f(t)    over sampled t at which f is active
    context_f  = the least n with kept_f >= 0.8 there and at every larger n, interpolated in log n

a_f(t) is the activation in the whole window, the one that is stored and matched: the model has seen
all of the window before t, earlier documents in it too.  a_f(t; n) is the activation at the same
token when the model reads `UNRELATED` tokens of another document and then the last n tokens of the
window up to and including t, n = 1, 2, 4, ... Where nothing is cut away, a_f(t; n) is a_f(t).
min() counts what is kept: a feature that fires more without its context does not make up for one
position at another.

Why unrelated text and not nothing: the first positions of a window are unlike all others.
Attention rests on them, and the state of a recurrent model is still empty; a feature that reads the
current token alone then loses half its activation in a Mamba, for want of any past and not of this
one (docs/methods-causal.md has the numbers).

A model with absolute positions reads the tokens at other positions: what that moves is counted with
what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from homolog.analyses.analysis import Tables
from homolog.analyses.left_context.rows import UNRELATED, choose_rows, cut_sizes
from homolog.analyses.material import Material
from homolog.analyses.stream import Matrices, place_of
from homolog.corpus import TokenWindows
from homolog.dictionaries import SparseAutoencoder, derive_seed
from homolog.dictionaries.encoder import SparseEncoder
from homolog.features.capture import FORWARD_TOKENS
from homolog.models import LanguageModel
from homolog.record.tables import LEFT_CONTEXT

KEPT = 0.8
CONTEXT_SCHEMA = LEFT_CONTEXT.only(*(name for name in LEFT_CONTEXT.columns if name != "model"))
_ENCODED_TOGETHER = 1024  # positions whose residuals are held before they are encoded


def measure_model(material: Material, name: str) -> Tables:
    """Task: how much left context the features of a model need."""
    model, windows = material.model(name), material.windows("match", name)
    layers = material.layers(name)
    seed = derive_seed(material.seed, "left context", name)

    def matrix_of(layer: int) -> csr_array:
        return material.features(name, layer).matrix

    most = material.interpretation.context_tokens
    rows = choose_rows(matrix_of, layers, windows, most_tokens=most, seed=seed)
    saes = {layer: material.sae(name, layer) for layer in layers}
    table = left_context(model, windows, rows, saes, matrix_of)
    return {LEFT_CONTEXT.name: table.select(pl.lit(name).alias("model"), pl.all())}


def left_context(
    model: LanguageModel,
    windows: TokenWindows,
    rows: Int[np.ndarray, " rows"],
    dictionaries: Mapping[int, SparseAutoencoder],
    matrix_of: Matrices,
) -> pl.DataFrame:
    """Table of `CONTEXT_SCHEMA`, one row per feature of each layer of `dictionaries`, sorted.

    n_positions: of `rows`, where the feature is active, without those for whose document no window
    starts with another one: all, where the text is one document.  context_tokens: tokens, the
    current one included, 1 to the context of the windows; NaN without positions.  kept: at
    `cut_sizes(context)`, NaN without positions.
    The model reads `tokens_to_run` at most; each row is encoded once per size and layer.
    """
    rows = rows[donors(windows, *place_of(windows, rows)) >= 0]
    window, position = place_of(windows, rows)
    sizes, layers = cut_sizes(windows.context), sorted(dictionaries)
    donor = donors(windows, window, position)
    encoders = {layer: SparseEncoder(dictionaries[layer], device=model.device) for layer in layers}
    stored = {layer: csr_array(matrix_of(layer)[rows]) for layer in layers}
    kept = {layer: np.zeros((len(sizes), dictionaries[layer].d_sae)) for layer in layers}
    for number, size in enumerate(sizes):
        is_cut = position + 1 > size
        for layer in layers:
            whole = stored[layer][np.flatnonzero(~is_cut)]
            kept[layer][number] = whole.sum(axis=0, dtype=np.float64)
        cut = np.flatnonzero(is_cut)
        for here in np.split(cut, range(_ENCODED_TOGETHER, len(cut), _ENCODED_TOGETHER)):
            tokens = _cut_tokens(windows, window[here], position[here], donor[here], size)
            for layer, x in zip(layers, _last_residuals(model, tokens, layers), strict=True):
                where = f"residuals of {model.name}, layer {layer}"
                left = encoders[layer].encode(x, where=where).minimum(stored[layer][here])
                kept[layer][number] += left.sum(axis=0, dtype=np.float64)
    parts = [_table(layer, sizes, windows.context, kept[layer], stored[layer]) for layer in layers]
    return pl.concat(parts) if parts else pl.DataFrame(schema=CONTEXT_SCHEMA)


def donors(
    windows: TokenWindows, window: np.ndarray, position: np.ndarray
) -> Int[np.ndarray, " rows"]:
    """For every place the next window that does not start with its own document; -1: none."""
    own = windows.document[window, position][:, None]
    donor, open_ = np.zeros(len(window), dtype=np.int64), np.arange(len(window))
    for step in range(1, len(windows) + 1):
        if not len(open_):
            break
        donor[open_] = (window[open_] + step) % len(windows)
        open_ = open_[(windows.document[donor[open_], :UNRELATED] == own[open_]).any(axis=1)]
    donor[open_] = -1
    return donor


def _cut_tokens(
    windows: TokenWindows, window: np.ndarray, position: np.ndarray, donor: np.ndarray, size: int
) -> Int[torch.Tensor, "rows tokens"]:
    last = windows.tokens[window[:, None], position[:, None] + np.arange(1 - size, 1)]
    before = windows.tokens[donor, : min(UNRELATED, windows.context - size)]
    return torch.from_numpy(np.concatenate([before, last], axis=1)).long()


@torch.inference_mode()
def _last_residuals(
    model: LanguageModel, tokens: torch.Tensor, layers: Sequence[int]
) -> list[torch.Tensor]:
    """Residuals (rows, d_model) at the last position after each of the layers."""
    if not len(tokens):
        return [torch.empty(0, model.d_model, device=model.device) for _ in layers]
    sites = [replace(model.own_site(layer), position=-1) for layer in layers]
    at_once = max(1, FORWARD_TOKENS // tokens.shape[1])
    end = model.own_site(layers[-1])
    runs = [model.run(part, capture=sites, stop_after=end) for part in tokens.split(at_once)]
    return [torch.cat([run[site] for run in runs]) for site in sites]


def _table(
    layer: int, sizes: list[int], context: int, kept: np.ndarray, stored: csr_array
) -> pl.DataFrame:
    total = stored.sum(axis=0, dtype=np.float64)
    share = kept / np.where(total > 0, total, np.nan)
    n_positions = np.bincount(stored.indices[stored.data > 0], minlength=len(total))
    columns = {
        "layer": np.full(len(total), layer, np.int32),
        "feature": np.arange(len(total), dtype=np.int32),
        "n_positions": n_positions.astype(np.int32),
        "context_tokens": context_tokens(sizes, share, context).astype(np.float32),
        "kept": list(share.T.astype(np.float32)),
    }
    return pl.DataFrame(columns, schema=CONTEXT_SCHEMA)


def context_tokens(
    sizes: Sequence[int], kept: Float[np.ndarray, "sizes features"], context: int
) -> Float[np.ndarray, " features"]:
    """The least n from which on `kept` is at least `KEPT`, linear in log2 n between sizes.

    All is kept at `context`.  1 where the current token is enough; NaN where kept is.
    """
    steps = np.log2([*sizes, context])
    curve = np.vstack([kept, np.ones((1, kept.shape[1]))])
    below = curve < KEPT
    last = np.where(below.any(axis=0), len(steps) - 1 - np.argmax(below[::-1], axis=0), -1)
    low, feature = np.maximum(last, 0), np.arange(kept.shape[1])
    rise = np.where(last < 0, 1.0, curve[low + 1, feature] - curve[low, feature])
    way = np.where(last < 0, 0.0, (KEPT - curve[low, feature]) / rise)
    least = 2.0 ** (steps[low] + way * (steps[low + 1] - steps[low]))
    return np.where(np.isnan(kept).any(axis=0), np.nan, least)
