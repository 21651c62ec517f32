"""Hybrids: Llama's blocks with state spaces beside attention or in its place.

    block:  h <- h + mixer(norm(h));  h <- h + mlp(norm'(h))

The mixer of a block is a state space or attention, in Falcon-H1 both side by side.  Where a block
has experts, its MLP is run as one part.

Zamba2 is in a file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from homolog.axes import Logits, Residual
from homolog.models.decoder import Trunk, normed, times
from homolog.models.llama import BEFORE, IN, Llama, Norms, attention_parts, hidden_of
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import Branch, Context, Mixer
from homolog.models.mixers.selective_scan import SelectiveScan
from homolog.models.mixers.ssd import SSD
from homolog.models.mlp import MLP, OwnMLP, gated, gated_fused


class Bamba(Llama):
    """Mamba-2 or attention in each block; the base of the other hybrids."""

    architecture = "bamba"
    trunk = Trunk("model.layers", "model.final_layernorm", "model.rotary_emb")
    norms = Norms(IN, "pre_ff_layernorm")

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        has_state = getattr(block, "mamba", None) is not None
        mixer = self.state_space(layer, block) if has_state else self.attention(layer, block)
        return [[mixer], [self.mlp(layer, block)]]

    def state_space(self, layer: int, block: Any) -> Mixer:
        norm = self._norm(block, self.norms.before_attention)
        return SSD(layer, norm, block.mamba, self._after(block, None))

    def mlp(self, layer: int, block: Any) -> Branch:
        mlp, norm = block.feed_forward, self._norm(block, self.norms.before_mlp)
        if not hasattr(mlp, "down_proj"):
            return OwnMLP(layer, norm, mlp)
        return MLP(layer, norm, hidden_of(mlp), mlp.down_proj)


class FalconH1(Bamba):
    """Attention and Mamba-2 read the stream side by side; every part has factors of its own."""

    architecture = "falcon_h1"

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        both = [self.state_space(layer, block), self.attention(layer, block)]
        return [both, [self.mlp(layer, block)]]

    def state_space(self, layer: int, block: Any) -> Mixer:
        config, norm = self.hf.config, normed(block.input_layernorm)
        norm = times(config.ssm_in_multiplier, norm) or norm
        return SSD(layer, norm, block.mamba, times(config.ssm_out_multiplier))

    def attention(self, layer: int, block: Any) -> Attention:
        config, norm = self.hf.config, normed(block.input_layernorm)
        key = times(config.key_multiplier)
        parts = attention_parts(config, block.self_attn, layer) | {
            "norms": None if key is None else (lambda query: query, key),
            "after": times(config.attention_out_multiplier),
        }
        norm = times(config.attention_in_multiplier, norm) or norm
        return Attention(layer, norm, AttentionParts(**parts))

    def mlp(self, layer: int, block: Any) -> Branch:
        mlp, norm = block.feed_forward, normed(block.pre_ff_layernorm)
        before, after = self.hf.config.mlp_multipliers

        def act(gate: Tensor) -> Tensor:
            return mlp.act_fn(gate * before)

        hidden = gated(act, mlp.gate_proj, mlp.up_proj)
        return MLP(layer, norm, hidden, mlp.down_proj, times(after))

    def logits(self, h: Residual) -> Logits:
        return super().logits(h) * self.hf.config.lm_head_multiplier


class GraniteMoeHybrid(Bamba):
    """Granite 4: most have no rotary positions; experts stand beside an MLP that all share."""

    architecture = "granitemoehybrid"
    trunk = Llama.trunk
    norms = BEFORE

    def mlp(self, layer: int, block: Any) -> Branch:
        norm, after = self._norm(block, self.norms.before_mlp), self._after(block, None)
        shared, experts = block.shared_mlp, block.block_sparse_moe
        if experts is not None:
            return OwnMLP(layer, norm, lambda x: experts(x) + shared(x), after)
        hidden = gated_fused(shared.activation, shared.input_linear)
        return MLP(layer, norm, hidden, shared.output_linear, after)

    def context_at(self, positions: Tensor, length: int, embedded: Tensor) -> Context:
        if self.hf.model.rotary_emb is None:
            return {None: None}
        return super().context_at(positions, length, embedded)


class Jamba(Bamba):
    """The selective scan of Mamba-1, with norms of dt', B and C, or attention; nothing rotates."""

    architecture = "jamba"
    trunk = Trunk("model.layers", "model.final_layernorm")

    def state_space(self, layer: int, block: Any) -> Mixer:
        mamba = block.mamba
        norms = (mamba.dt_layernorm, mamba.b_layernorm, mamba.c_layernorm)
        norm = self._norm(block, self.norms.before_attention)
        dt, B, C = (normed(each) for each in norms)
        return SelectiveScan(layer, norm, mamba, (dt, B, C))


HYBRIDS: tuple[type[Bamba], ...] = (Bamba, FalconH1, GraniteMoeHybrid, Jamba)
