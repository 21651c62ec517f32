"""RWKV-4: time mixing, whose state is a numerator and a denominator, and channel mixing.

    block:  h <- h + time mixing(ln1(h));  h <- h + channel mixing(ln2(h))

The norm that block 0 begins with belongs to the embedding here: the stream that blocks add to
begins after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from homolog.axes import Residual, Tokens
from homolog.models.decoder import Decoder, Trunk, normed
from homolog.models.guards import never_rescale
from homolog.models.mixers.base import Branch
from homolog.models.mixers.channel_mixing import ChannelMixing
from homolog.models.mixers.time_mixing import TimeMixing
from homolog.models.widening import apply_norm


class RWKV(Decoder):
    """Adapter over `transformers.RwkvForCausalLM`, whose weights are never divided."""

    architecture = "rwkv"
    trunk = Trunk("rwkv.blocks", "rwkv.ln_out")

    def __init__(
        self, name: str, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        never_rescale(hf)
        super().__init__(name, hf, tokenizer)

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        time = TimeMixing(layer, normed(block.ln1), block.attention)
        return [[time], [ChannelMixing(layer, normed(block.ln2), block.feed_forward)]]

    def embed(self, tokens: Tokens) -> Residual:
        return apply_norm(self.blocks()[0].pre_ln, super().embed(tokens))
