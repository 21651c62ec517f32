"""The k largest of a token in the mean: of n tokens, the n k largest [Bussmann 2024].

    f = the n k largest of the relu(p) of n tokens, others 0;   the loss is that of `topk`

After training a feature is active above one threshold, the running mean of the smallest value that
a batch kept.  Source: arXiv 2412.06410.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from homolog.dictionaries.kinds import topk
from homolog.dictionaries.kinds.base import Encoder, Rules, Stored, Tensor, keep_largest
from homolog.dictionaries.kinds.relu import slopes


class Settings(topk.Settings):
    """The k largest of a token in the mean: of n tokens, the n k largest [Bussmann 2024]."""

    kind: Literal["batchtopk"] = "batchtopk"  # type: ignore[assignment]

    threshold_rate: float = Field(default=0.01, gt=0, le=1)
    """Weight of a step in the running mean of the smallest value kept, which is the threshold after
    training.
    """


class BatchTopK(topk.TopK):
    Settings = Settings
    form = "threshold"
    carries = False
    rules = Rules(slopes, select="of batch")
    stored = (
        Stored("homolog", "batchtopk", scalar_threshold="topk_threshold", chooses=True),
        Stored("homolog", "matryoshka_batchtopk", scalar_threshold="topk_threshold", chooses=True),
        Stored(
            "dictionary_learning",
            "BatchTopKSAE",
            {"b_enc": "encoder.bias"},
            linear=True,
            scalar_threshold="threshold",
            chooses=True,
            other=("k", "threshold", "group_sizes"),
        ),
        Stored(
            "dictionary_learning",
            "MatryoshkaBatchTopKSAE",
            scalar_threshold="threshold",
            chooses=True,
            other=("k", "threshold", "group_sizes"),
        ),
        Stored("llamascopium", "batchtopk", scalar_threshold="jump_relu_threshold"),
    )

    def keep(self, pre: Tensor, k: int) -> Tensor:
        return keep_largest(pre.reshape(1, -1), k * len(pre)).reshape(pre.shape)

    def running_rate(self, settings: Settings) -> float:
        return settings.threshold_rate

    def encoder(self, settings: Settings, w: Mapping[str, Tensor], running: float) -> Encoder:
        b_enc = w["b_enc"]
        return Encoder(w["W_enc"], b_enc, b_enc.new_full(b_enc.shape, running))


KIND = BatchTopK()
