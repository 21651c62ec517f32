"""The k largest of a token in the mean: of n tokens, the n k largest [Bussmann 2024].

    f = the n k largest of the relu(p) of n tokens, others 0;   the loss is that of `topk`

After training a feature is active above one threshold, the running mean of the smallest value that
a batch kept.  Source: arXiv 2412.06410.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from homolog.dictionaries.kinds import topk
from homolog.dictionaries.kinds.base import Encoder, Named, Rules, Stored, Tensor, keep_largest
from homolog.dictionaries.kinds.relu import LINEAR, slopes


class Settings(topk.Settings):
    """The k largest of a token in the mean: of n tokens, the n k largest [Bussmann 2024]."""

    kind: Literal["batchtopk"] = "batchtopk"  # type: ignore[assignment]

    threshold_rate: float = Field(default=0.01, gt=0, le=1)
    """Weight of a step in the running mean of the smallest value kept, which is the threshold after
    training.
    """


_OWN: dict[str, Any] = {"scalar_threshold": "topk_threshold", "chooses": True}
_BOUNDED: dict[str, Any] = topk.CHOSEN | {"scalar_threshold": "threshold"}


class BatchTopK(topk.TopK):
    Settings = Settings
    form = "threshold"
    carries = False
    rules = Rules(slopes, select="of batch")
    stored = (
        Stored("homolog", "batchtopk", **_OWN),
        Stored("homolog", "matryoshka_batchtopk", **_OWN),
        Stored("dictionary_learning", "BatchTopKSAE", LINEAR, linear=True, **_BOUNDED),
        Stored("dictionary_learning", "MatryoshkaBatchTopKSAE", **_BOUNDED),
        Stored("llamascopium", "batchtopk", scalar_threshold="jump_relu_threshold"),
    )

    def keep(self, pre: Tensor, k: int) -> Tensor:
        return keep_largest(pre.reshape(1, -1), k * len(pre)).reshape(pre.shape)

    def running_rate(self, settings: Settings) -> float:
        return settings.threshold_rate

    def encoder(self, settings: Settings, w: Named, running: float) -> Encoder:
        b_enc = w["b_enc"]
        return Encoder(w["W_enc"], b_enc, b_enc.new_full(b_enc.shape, running))


KIND = BatchTopK()
