"""The architectures that are Llama's but for what is said here.

Most are told apart by what their modules and configurations say alone: biases, grouped heads, norms
of queries and keys, windows, sinks, soft caps, multipliers, experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homolog.axes import Logits, Residual, Tokens
from homolog.models.decoder import Trunk, normed
from homolog.models.llama import (
    AFTER,
    AFTER_ATTENTION,
    AROUND,
    BEFORE_MLP,
    IN,
    Llama,
    Norms,
    head_norms,
    hidden_of,
)
from homolog.models.mixers.base import Branch, Norm
from homolog.models.mixers.rotary import rotate_pairs
from homolog.models.mlp import MLP, OwnMLP

Tables = dict[str | None, tuple[Tensor, Tensor]]

ALIKE = (
    "arcee",
    "cwm",
    "dots1",
    "gemma",
    "glm4_moe",
    "granite",
    "hy_v3",
    "internlm3",
    "iquestcoder",
    "jais2",
    "minimax_m2",
    "ministral",
    "mistral",
    "mixtral",
    "nemotron",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "seed_oss",
    "smollm3",
    "solar_open",
    "starcoder2",
)
"""Those that need no word."""


class NormedAfter(Llama):
    """OLMo 2: norms stand after each part."""

    architecture = "olmo2"
    norms = AFTER


class NormedAround(Llama):
    """Gemma 2: norms stand before and after each part."""

    architecture = "gemma2"
    norms = AROUND


class VaultGemma(Llama):
    architecture = "vaultgemma"
    norms = Norms(IN, BEFORE_MLP)


class Apertus(Llama):
    architecture = "apertus"
    norms = Norms("attention_layernorm", "feedforward_layernorm")


class TableByKind(Llama):
    """Mellum: blocks that see a window have rotary tables of their own."""

    architecture = "mellum"

    def own_parts(self, layer: int, block: Any) -> dict[str, Any]:
        return {"table": self.hf.config.layer_types[layer]}

    def rotary_tables(self, module: Any, positions: Tensor, like: Tensor) -> Tables:
        kinds = dict.fromkeys(self.hf.config.layer_types)
        return {kind: module(like, positions[None], kind) for kind in kinds}


class Gemma3(TableByKind):
    """Scores have no soft cap, whatever the configuration says."""

    architecture = "gemma3_text"
    norms = AROUND

    def own_parts(self, layer: int, block: Any) -> dict[str, Any]:
        return super().own_parts(layer, block) | {"soft_cap": None}


class OLMo3(TableByKind):
    architecture = "olmo3"
    norms = AFTER


class RotatedInWindows(Llama):
    """EXAONE MoE: where some blocks see a window, the others have no rotary positions."""

    architecture = "exaone_moe"

    def own_parts(self, layer: int, block: Any) -> dict[str, Any]:
        attention = block.self_attn
        return {"rotary": attention.sliding_window is None or attention.is_sliding}


class EXAONE4(RotatedInWindows):
    architecture = "exaone4"
    norms = AFTER


class Clipped(Llama):
    """OLMo and OLMoE: queries, keys and values may be clipped; OLMo's norms have no weights."""

    architecture = "olmo"

    def own_parts(self, layer: int, block: Any) -> dict[str, Any]:
        limit = self.hf.config.clip_qkv
        if limit is None:
            return {}

        def clipped(norm: Norm | None) -> Norm:
            return lambda x: (x if norm is None else norm(x)).clamp(-limit, limit)

        norms = head_norms(block.self_attn) or (None, None)
        return {"norms": tuple(clipped(norm) for norm in (*norms, None))}


class NormedLate(Llama):
    """Hunyuan: queries and keys are rotated first, then normed."""

    architecture = "hunyuan_v1_dense"

    def own_parts(self, layer: int, block: Any) -> dict[str, Any]:
        attention = block.self_attn
        late = normed(attention.query_layernorm), normed(attention.key_layernorm)
        return {"norms": None, "late_norms": late}


class NanoChat(Llama):
    """Normed late too, embeddings as well; rotary positions turn the other way.

    No norm has a weight.
    """

    architecture = "nanochat"

    def embed(self, tokens: Tokens) -> Residual:
        return self.final_norm(super().embed(tokens))

    def own_parts(self, layer: int, block: Any) -> dict[str, Any]:
        attention = block.self_attn
        return {"norms": None, "late_norms": (normed(attention.q_norm), normed(attention.k_norm))}

    def rotary_tables(self, module: Any, positions: Tensor, like: Tensor) -> Tables:
        cos, sin = super().rotary_tables(module, positions, like)[None]
        return {None: (cos, -sin)}


class InPairs(Llama):
    """GLM, Helium, ERNIE: rotary positions turn neighbouring dimensions."""

    architecture = "helium"

    def own_parts(self, layer: int, block: Any) -> dict[str, Any]:
        return {"turn": rotate_pairs}


class GLM4(InPairs):
    architecture = "glm4"
    norms = Norms(IN, AFTER_ATTENTION, "post_self_attn_layernorm", "post_mlp_layernorm")


class Cohere(InPairs):
    """Attention and MLP side by side, on one norm that takes the mean away."""

    architecture = "cohere"
    norms = Norms(IN, IN)
    parallel = True

    def rotary_tables(self, module: Any, positions: Tensor, like: Tensor) -> Tables:
        """The module's hold every angle twice, side by side."""
        tables = super().rotary_tables(module, positions, like)[None]
        cos, sin = (torch.cat([table[..., ::2]] * 2, -1) for table in tables)
        return {None: (cos, sin)}

    def scaled(self, logits: Logits) -> Logits:
        return logits * self.hf.config.logit_scale


class Cohere2(Cohere):
    """Blocks that see everything have no rotary positions."""

    architecture = "cohere2"

    def own_parts(self, layer: int, block: Any) -> dict[str, Any]:
        rotary = block.self_attn.sliding_window is not None
        return super().own_parts(layer, block) | {"rotary": rotary}


class GPTOSS(Llama):
    """Heads have sinks; every block has experts."""

    architecture = "gpt_oss"

    def rotary_tables(self, module: Any, positions: Tensor, like: Tensor) -> Tables:
        """The module's hold every angle once."""
        tables = super().rotary_tables(module, positions, like)[None]
        cos, sin = (torch.cat([table] * 2, -1) for table in tables)
        return {None: (cos, sin)}


class GraniteMoE(Llama):
    """Experts, and beside them an MLP that all tokens share."""

    architecture = "granitemoe"

    def mlp(self, layer: int, block: Any) -> Branch:
        norm, after = self._norm(block, self.norms.before_mlp), self._after(block, None)
        experts, shared = block.block_sparse_moe, getattr(block, "shared_mlp", None)
        module = experts if shared is None else lambda x: experts(x) + shared(x)
        return OwnMLP(layer, norm, module, after)


class GraniteSWA(Llama):
    """Every block has a base of its rotary positions, or none; heads have sinks."""

    architecture = "granite_swa"
    trunk = Trunk("model.layers", "model.norm", "model.rotary_embs")

    def own_parts(self, layer: int, block: Any) -> dict[str, Any]:
        theta = self.hf.config.layer_rope_theta[layer]
        return {"rotary": bool(theta), "table": str(theta)}

    def rotary_tables(self, module: Any, positions: Tensor, like: Tensor) -> Tables:
        bases = {str(one.config.rope_parameters["rope_theta"]): one for one in module}
        return {base: one(like, positions[None]) for base, one in bases.items()}


class GraniteMoESWA(GraniteSWA, GraniteMoE):
    architecture = "granitemoe_swa"


class HyperCLOVAX(Llama):
    """Norms may stand after each part too; logits are multiplied where Granite's are divided."""

    architecture = "hyperclovax"
    norms = Norms(IN, AFTER_ATTENTION, "post_norm1", "post_norm2")

    def scaled(self, logits: Logits) -> Logits:
        return logits * self.hf.config.logits_scaling


class Phi(Llama):
    """Attention and MLP side by side, on one norm."""

    architecture = "phi"
    trunk = Trunk("model.layers", "model.final_layernorm", "model.rotary_emb")
    norms = Norms(IN, IN)
    parallel = True


class StableLM(Llama):
    """Attention and MLP may stand side by side, on one norm."""

    architecture = "stablelm"

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        if not self.hf.config.use_parallel_residual:
            return super().steps(layer, block)
        mlp = block.mlp
        norm = self._norm(block, IN)
        return [[self.attention(layer, block), MLP(layer, norm, hidden_of(mlp), mlp.down_proj)]]


_OWN: tuple[type[Llama], ...] = (
    Llama,
    NormedAfter,
    NormedAround,
    VaultGemma,
    Apertus,
    TableByKind,
    Gemma3,
    OLMo3,
    RotatedInWindows,
    EXAONE4,
    Clipped,
    NormedLate,
    NanoChat,
    InPairs,
    GLM4,
    Cohere,
    Cohere2,
    GPTOSS,
    GraniteMoE,
    GraniteSWA,
    GraniteMoESWA,
    HyperCLOVAX,
    Phi,
    StableLM,
)
_SHARED: dict[type[Llama], tuple[str, ...]] = {
    Llama: ALIKE,
    NormedAfter: ("flex_olmo",),
    Clipped: ("olmoe",),
    NormedLate: ("hunyuan_v1_moe",),
    InPairs: ("glm", "ernie4_5", "ernie4_5_moe"),
    GraniteMoE: ("granitemoeshared",),
}
FAMILY: dict[str, type[Llama]] = {
    **{adapter.architecture: adapter for adapter in _OWN},
    **{name: adapter for adapter, names in _SHARED.items() for name in names},
}
"""By the model type of the configuration."""
