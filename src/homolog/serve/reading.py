"""One model on one text: its tokens, features and predictions, and those after a change.

With h the residual stream at the place of the dictionary of a block, a(t) the activation of a
feature at token t, and d its decoder direction (row of W_dec), a change is

    h'(t) = h(t) + (m a(t) - a(t)) d      a multiple m of its activation; 0 takes it out
    h'(t) = h(t) + (v - a(t)) d           a value v

at one token or at all; the rest of h stays, and the later blocks run on h'.  Tokens that the run
leaves out, special ones and sinks, have no features and are not changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import csr_array

from homolog.analyses.causal.forward import (
    Streams,
    final_stream,
    in_parts,
    logs_of,
    streams_of,
)
from homolog.analyses.units import spread
from homolog.corpus import TokenText, TokenWindows, fingerprint, joined, special_tokens
from homolog.corpus.units import Cutter
from homolog.dictionaries.encoder import SparseEncoder
from homolog.errors import InputError, require_one_of
from homolog.features.sinks import Limits, above_limits, any_of
from homolog.models import LanguageModel
from homolog.serve.question import MOST_TOKENS, Change

SHOWN = 8
"""Predictions of each token: the most probable."""
SPECIAL, SINK = "special", "sink"
Prediction = tuple[int, float]
"""Token id and probability."""
Changed = tuple[int, float, float]
"""Token id, and its probability before and after."""


@dataclass(frozen=True)
class ReadLayer:
    """A dictionary, laid out for reading, and the directions that its features write."""

    encoder: SparseEncoder
    directions: torch.Tensor
    """(d_sae, d_model)"""
    largest: np.ndarray | None
    """(d_sae,) largest activation on the run's text; None where the run has not kept it."""


@dataclass(frozen=True)
class Reader:
    """A model with its dictionaries by layer, as the run reads it (its beginning, its site)."""

    name: str
    model: LanguageModel
    layers: Mapping[int, ReadLayer]
    texts: Sequence[TokenText]
    """What each token id stands for."""
    limits: Limits
    """Above which norms a token is a sink; empty where the run keeps sinks."""

    @cached_property
    def cutter(self) -> Cutter:
        """Cuts texts, and says where."""
        return Cutter(self.model.require_tokenizer())

    def windows(self, text: str, *, bounds: bool) -> TokenWindows:
        """The text as one window; bounds: with the byte after each token.

        InputError where that is no token or too many.
        """
        tokenizer = self.model.require_tokenizer()
        end = None
        if bounds:
            (cut,) = self.cutter.cut([text])
            ids, end = cut.ids, np.append(0, cut.end)[None]
        else:
            ids = np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int32)
        if not len(ids):
            requirement = f"the tokenizer of {self.name} must make a token of it"
            raise InputError("text", text, requirement, "Write more.")
        if len(ids) > MOST_TOKENS:
            requirement = f"{MOST_TOKENS} are read at most"
            value = f"{len(ids)} tokens of {self.name}"
            raise InputError("text", value, requirement, "Shorten it.")
        try:
            self.model.require_positions(len(ids), "text")
        except InputError as error:
            value = f"{len(ids)} tokens of {self.name}"
            raise InputError("text", value, error.requirement, "Shorten it.") from error
        mask = ~np.isin(ids, list(special_tokens(tokenizer)))
        parts = (ids[None], np.zeros((1, len(ids)), np.int32), mask[None])
        return TokenWindows(*parts, fingerprint(tokenizer), bounds=end)

    @torch.no_grad()
    def read(self, windows: TokenWindows) -> Reading:
        """One pass over the text, and the features of every dictionary."""
        streams = streams_of(self.model, windows, np.zeros(1, np.int64), list(self.layers))
        mask = windows.mask[0].copy()
        if self.limits and mask.any():
            kept = np.flatnonzero(mask)
            own = {n: streams.own[n][0][torch.from_numpy(mask)] for n in self.limits}
            mask[kept[any_of(above_limits(own, self.limits)).cpu().numpy()]] = False
        features, rows = {}, np.flatnonzero(mask)
        for layer, there in self.layers.items():
            x = streams.own[layer][0][torch.from_numpy(mask).to(self.model.device)]
            encoded = there.encoder.encode(x, where=f"residuals of {self.name}, layer {layer}")
            features[layer] = spread(encoded, rows, len(mask))
        return Reading(self, windows, streams, mask, features)

    def shown(self, token: int) -> TokenText:
        """What a token id stands for; one beyond the tokenizer's is named."""
        return self.texts[token] if token < len(self.texts) else f"<token {token}>"


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model has on a text.

    mask: bool (tokens,), False where nothing is read.  features: by layer (tokens, d_sae), float32;
    rows that are masked are empty.
    """

    reader: Reader
    windows: TokenWindows
    streams: Streams
    mask: np.ndarray
    features: Mapping[int, csr_array]

    @property
    def tokens(self) -> list[tuple[str, str | None]]:
        """What each token shows, and why it is left out: `SPECIAL`, `SINK` or None."""
        ids = self.windows.tokens[0].tolist()
        special, kept = ~self.windows.mask[0], self.mask
        why = np.where(special, SPECIAL, np.where(kept, "", SINK)).tolist()
        texts = joined([self.reader.shown(i) for i in ids])
        return [(text, reason or None) for text, reason in zip(texts, why, strict=True)]

    @torch.no_grad()
    def predictions(self) -> list[list[Prediction]]:
        """The most probable next tokens after each token, with their probabilities."""
        model, h = self.reader.model, self.streams.final[0]
        found: list[list[Prediction]] = []
        for part in in_parts(len(h), model):
            top = logs_of(model, h[part]).exp().topk(min(SHOWN, _width(model, h)), dim=-1)
            for ids, p in zip(top.indices.tolist(), top.values.tolist(), strict=True):
                found.append(list(zip(ids, p, strict=True)))
        return found

    @torch.no_grad()
    def changed(self, change: Change) -> tuple[list[list[Changed]], list[float], list[float]]:
        """After each token, the next tokens before and after a change of a feature.

        Returns these, how far the predictions have moved (half the sum of |p' - p|), and what the
        feature's activation has become at each token.  InputError for a layer, feature or token
        that is not there.
        """
        there = self._required(change)
        a = self.features[change.layer][:, [change.feature]].toarray()[:, 0].astype(np.float64)
        put = np.full_like(a, change.value) if change.times is None else a * change.times
        at = self.mask.copy()
        if change.token is not None:
            at &= np.arange(len(at)) == change.token
        after = np.where(at, put, a)
        own = self.streams.own[change.layer]
        d = there.directions[change.feature].to(own.device, torch.float32)
        added = torch.from_numpy((after - a).astype(np.float32)).to(own.device)[:, None] * d
        h = own + added[None].to(own.dtype)
        before, beside = self.streams.before[change.layer], self.streams.embedded
        final = final_stream(self.reader.model, change.layer, h, before, beside)
        return *self._compared(final[0]), after.tolist()

    def _compared(self, final: torch.Tensor) -> tuple[list[list[Changed]], list[float]]:
        model, clean = self.reader.model, self.streams.final[0]
        rows, moved = list[list[Changed]](), list[float]()
        for part in in_parts(len(clean), model):
            before, after = (logs_of(model, h[part]).exp() for h in (clean, final))
            moved += ((after - before).abs().sum(-1) / 2).tolist()
            k = min(SHOWN, before.shape[-1])
            for p, q in zip(before, after, strict=True):
                ids = torch.cat([p.topk(k).indices, q.topk(k).indices]).unique()
                order = torch.maximum(p[ids], q[ids]).argsort(descending=True)[: SHOWN + 2]
                some = ids[order]
                rows.append(
                    list(zip(some.tolist(), p[some].tolist(), q[some].tolist(), strict=True))
                )
        return rows, moved

    def _required(self, change: Change) -> ReadLayer:
        require_one_of("layer", change.layer, self.reader.layers)
        there = self.reader.layers[change.layer]
        require_one_of("feature", change.feature, range(len(there.directions)))
        if change.token is not None:
            require_one_of("token", change.token, range(len(self.mask)))
        return there


def _width(model: LanguageModel, h: torch.Tensor) -> int:
    """Entries of a prediction."""
    return int(logs_of(model, h[:1]).shape[-1])
