"""How much left context a feature needs: what is left of its activation when all but the last n
tokens are exchanged.

    kept_f(n)  = sum_t min(a_f(t; n), a_f(t)) / sum_t a_f(t)       over sampled positions t at which f is active
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

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from homolog.corpus import TokenWindows
from homolog.dictionaries import SparseAutoencoder
from homolog.dictionaries.encoder import SparseEncoder
from homolog.errors import InputError
from homolog.features.capture import FORWARD_TOKENS
from homolog.models import LanguageModel, Site

KEPT = 0.8
CONTEXT_SCHEMA = {
    "layer": pl.Int32,
    "feature": pl.Int32,
    "n_positions": pl.Int32,
    "context_tokens": pl.Float32,
    "kept": pl.List(pl.Float32),
}
UNRELATED = (
    32  # tokens of another document that are read first, fewer where the window would become longer
)
_ENCODED_TOGETHER = 1024  # positions whose residuals are held before they are encoded

Matrices = Callable[[int], csr_array]
"""Gives a layer's activations, float32 (tokens, d_sae); asked for one layer after the other."""


def shape_of(matrix: csr_array) -> tuple[int, int]:
    """(tokens, features), which scipy's types do not promise."""
    tokens, features = matrix.shape  # type: ignore[misc]
    return int(tokens), int(features)


def cut_sizes(context: int) -> list[int]:
    """1, 2, 4, ... below `context`: the numbers of tokens that are kept."""
    return [1 << k for k in range((context - 1).bit_length())]


def place_of(windows: TokenWindows, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(window, position in it), int64, of rows of the features: of tokens counted without the
    masked ones.
    """
    kept = np.flatnonzero(windows.mask)
    if len(rows) and (rows.min() < 0 or rows.max() >= len(kept)):
        raise InputError(
            "rows",
            int(rows.max()),
            f"the stream has {len(kept)} tokens that are not masked",
            "Use the windows that the features were made from.",
        )
    return np.divmod(kept[rows], windows.context)


def tokens_to_run(windows: TokenWindows, rows: np.ndarray) -> int:
    """Tokens that the model reads for these rows: about context + 32 log2(context) a row."""
    return int(_tokens_of(windows, rows).sum())


def _tokens_of(windows: TokenWindows, rows: np.ndarray) -> np.ndarray:
    left = place_of(windows, rows)[1] + 1
    sizes = np.array(cut_sizes(windows.context), dtype=np.int64)
    return (np.minimum(sizes + UNRELATED, windows.context) * (sizes < left[:, None])).sum(axis=1)


def choose_rows(
    matrix_of: Matrices,
    layers: Sequence[int],
    windows: TokenWindows,
    *,
    per_feature: int = 2,
    most_tokens: int | None = None,
    seed: int = 0,
) -> Int[np.ndarray, " rows"]:
    """Rows, int64 ascending, with `per_feature` active positions of every alive feature of the
    layers that has them.

    A greedy cover, layer after layer, of which one is in memory: each row counts for every feature
    active there.  Taken are first positions in the second half of a window, so that every cut below
    half a context takes something away, at which the activation is at least its mean over active
    tokens; then, for features without, any.
    most_tokens: of `tokens_to_run`; above it rows are dropped at random (`seed`), and features may
    be left without.
    """
    n_rows = int(windows.mask.sum())
    chosen = np.zeros(n_rows, dtype=bool)
    late = place_of(windows, np.arange(n_rows))[1] >= windows.context // 2
    for layer in layers:
        matrix = matrix_of(layer)
        if (n_tokens := shape_of(matrix)[0]) != n_rows:
            raise InputError(
                f"tokens of layer {layer}",
                n_tokens,
                f"the windows have {n_rows}",
                "Use the windows that the features were made from.",
            )
        active = matrix.data > 0
        n_active = np.bincount(matrix.indices[active], minlength=shape_of(matrix)[1])
        typical = matrix.sum(axis=0, dtype=np.float64) / np.maximum(n_active, 1)
        strong = (
            active
            & (matrix.data >= typical[matrix.indices])
            & np.repeat(late, np.diff(matrix.indptr))
        )
        for entries in (strong, active):
            eligible = csr_array(
                (entries, matrix.indices, matrix.indptr), shape=matrix.shape
            ).copy()
            eligible.eliminate_zeros()
            _cover(eligible, chosen, per_feature)
    rows = np.flatnonzero(chosen)
    if most_tokens is not None and len(rows):
        order = np.random.default_rng(seed).permutation(len(rows))
        rows = np.sort(rows[order[np.cumsum(_tokens_of(windows, rows[order])) <= most_tokens]])
    return rows


def _cover(eligible: csr_array, chosen: np.ndarray, per_feature: int) -> None:
    """Add rows to `chosen` until each column has `per_feature` of its entries, or all, in it;
    rarest columns first.

    Of a column's rows the one is taken that serves the most columns still in need, the first of
    those.
    """
    by_column = eligible.tocsc()
    wanted = np.minimum(np.diff(by_column.indptr), per_feature)
    have = (eligible.T @ chosen.astype(np.int64)).astype(np.int64)
    gain = (eligible @ (have < wanted).astype(np.int64)).astype(np.int64)

    def rows_of(column: np.integer) -> np.ndarray:
        return by_column.indices[by_column.indptr[column] : by_column.indptr[column + 1]]

    for column in np.argsort(np.diff(by_column.indptr), kind="stable"):
        while have[column] < wanted[column]:
            rows = rows_of(column)
            free = rows[~chosen[rows]]
            best = free[np.argmax(gain[free])]
            chosen[best] = True
            served = eligible.indices[eligible.indptr[best] : eligible.indptr[best + 1]]
            have[served] += 1
            for done in served[have[served] == wanted[served]]:
                gain[rows_of(done)] -= 1


def left_context(
    model: LanguageModel,
    windows: TokenWindows,
    rows: Int[np.ndarray, " rows"],
    dictionaries: Mapping[int, SparseAutoencoder],
    matrix_of: Matrices,
    *,
    advance: Callable[[int], None] | None = None,
) -> pl.DataFrame:
    """Table of `CONTEXT_SCHEMA`, one row a feature of each layer of `dictionaries`, sorted.

    n_positions: of `rows`, where the feature is active, without those for whose document no window
    starts with another one: all, where the text is one document.  context_tokens: tokens, the
    current one included, 1 to the context of the windows; NaN without positions.  kept: at
    `cut_sizes(context)`, NaN without positions.
    advance: called with tokens run, at most `tokens_to_run(windows, rows)` in all; each row is
    encoded once a size and layer.
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
            kept[layer][number] = stored[layer][np.flatnonzero(~is_cut)].sum(
                axis=0, dtype=np.float64
            )
        cut = np.flatnonzero(is_cut)
        for here in np.split(cut, range(_ENCODED_TOGETHER, len(cut), _ENCODED_TOGETHER)):
            tokens = _cut_tokens(windows, window[here], position[here], donor[here], size)
            for layer, x in zip(layers, _last_residuals(model, tokens, layers), strict=True):
                values = encoders[layer].encode(
                    x, where=f"residuals of {model.name}, layer {layer}"
                )
                kept[layer][number] += values.minimum(stored[layer][here]).sum(
                    axis=0, dtype=np.float64
                )
            if advance is not None:
                advance(tokens.numel())
    parts = [_table(layer, sizes, windows.context, kept[layer], stored[layer]) for layer in layers]
    return pl.concat(parts) if parts else pl.DataFrame(schema=CONTEXT_SCHEMA)


def donors(
    windows: TokenWindows, window: np.ndarray, position: np.ndarray
) -> Int[np.ndarray, " rows"]:
    """For every place the next window that does not start with text of the place's own document;
    -1: there is none.
    """
    own = windows.document[window, position][:, None]
    found, open_ = np.zeros(len(window), dtype=np.int64), np.arange(len(window))
    for step in range(1, len(windows) + 1):
        if not len(open_):
            break
        found[open_] = (window[open_] + step) % len(windows)
        open_ = open_[(windows.document[found[open_], :UNRELATED] == own[open_]).any(axis=1)]
    found[open_] = -1
    return found


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
    sites = [Site("resid", layer, position=-1) for layer in layers]
    runs = [
        model.run(part, capture=sites, stop_after=Site("resid", layers[-1]))
        for part in tokens.split(max(1, FORWARD_TOKENS // tokens.shape[1]))
        if len(part)
    ]
    return [
        torch.cat([run[site] for run in runs])
        if runs
        else torch.empty(0, model.d_model, device=model.device)
        for site in sites
    ]


def _table(
    layer: int, sizes: list[int], context: int, kept: np.ndarray, stored: csr_array
) -> pl.DataFrame:
    total = stored.sum(axis=0, dtype=np.float64)
    share = kept / np.where(total > 0, total, np.nan)
    columns = {
        "layer": np.full(len(total), layer, np.int32),
        "feature": np.arange(len(total), dtype=np.int32),
        "n_positions": np.bincount(stored.indices[stored.data > 0], minlength=len(total)).astype(
            np.int32
        ),
        "context_tokens": context_tokens(sizes, share, context).astype(np.float32),
        "kept": list(share.T.astype(np.float32)),
    }
    return pl.DataFrame(columns, schema=CONTEXT_SCHEMA)


def context_tokens(
    sizes: Sequence[int],
    kept: Float[np.ndarray, "sizes features"],
    context: int,
    share: float = KEPT,
) -> Float[np.ndarray, " features"]:
    """The least n from which on `kept` is at least `share`, linear in log2 n between sizes; all is
    kept at `context`.

    1 where the current token is enough; NaN where kept is.
    """
    steps = np.log2([*sizes, context])
    curve = np.vstack([kept, np.ones((1, kept.shape[1]))])
    below = curve < share
    last = np.where(below.any(axis=0), len(steps) - 1 - np.argmax(below[::-1], axis=0), -1)
    low, feature = np.maximum(last, 0), np.arange(kept.shape[1])
    rise = np.where(last < 0, 1.0, curve[low + 1, feature] - curve[low, feature])
    way = np.where(last < 0, 0.0, (share - curve[low, feature]) / rise)
    found = 2.0 ** (steps[low] + way * (steps[low + 1] - steps[low]))
    return np.where(np.isnan(kept).any(axis=0), np.nan, found)
