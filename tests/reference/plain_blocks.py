"""One block of each architecture, by head and by position, with a change at any site.

The Hugging Face module lends its weights, norms and rotary tables; `logits_with` puts the plain
block into its forward pass in place of the module's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.reference import plain_hybrids, plain_recurrences
from tests.reference.hooked_sites import MODULES
from tests.reference.hybrid_blocks import TYPES, Sites, hybrid_block
from torch import Tensor
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

Change = Callable[[Tensor], Tensor]


def logits_with(hf: Any, tokens: Tensor, layer: int, kind: str, change: Change) -> Tensor:
    """Logits of the module with `change` applied to the whole value of a site of that layer.

    For `state`, the change gets (batch, position, d_inner, d_state) of which only the current
    position counts.
    """
    if hf.config.model_type in plain_hybrids.BLOCKS:
        return plain_hybrids.logits_with(hf, tokens, layer, kind, change)
    if hf.config.model_type in TYPES:
        return _hybrid_logits(hf, tokens, layer, Sites({kind: change}))
    if hf.config.model_type in plain_recurrences.BLOCKS:
        return plain_recurrences.logits_with(hf, tokens, layer, kind, change)
    names = MODULES[hf.config.model_type]
    block = hf.get_submodule(names["blocks"])[layer]
    plain = mamba_block if hf.config.model_type == "mamba" else attention_block
    handle = block.register_forward_hook(
        lambda _m, args, _out: plain(hf, block, args[0], kind, change)
    )
    logits = hf(tokens).logits
    handle.remove()
    return logits


def _hybrid_logits(hf: Any, tokens: Tensor, layer: int, site: Sites) -> Tensor:
    handle = hf.model.layers[layer].register_forward_hook(
        lambda _m, args, _out: hybrid_block(hf, layer, args[0], site)
    )
    logits = hf(tokens).logits
    handle.remove()
    return logits


def attention_block(hf: Any, block: Any, h: Tensor, kind: str, change: Change) -> Tensor:
    """The residual stream after a Transformer block, (batch, position, d_model)."""
    config, parts = hf.config, MODULES[hf.config.model_type]

    def site(name: str, value: Tensor) -> Tensor:
        return change(value) if name == kind else value

    h = site("resid_pre", h)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", heads)
    norm = block.ln_1 if config.model_type == "gpt2" else block.input_layernorm
    by_read: dict[str, list[Tensor]] = {"query": [], "key": [], "value": []}
    for name, count in (("query", heads), ("key", kv_heads), ("value", kv_heads)):
        stream = site(f"{name}_in", torch.stack([h] * count, 2))
        for i in range(count):
            by_read[name].append(projected(config, block, norm(stream[:, :, i]), name)[:, :, i])
    q, k, v = (site(name, torch.stack(rows, 2)) for name, rows in by_read.items())
    scale = block.attn.scaling if config.model_type == "gpt2" else q.shape[-1] ** -0.5
    if config.model_type != "gpt2":
        rotary = hf.get_submodule(
            {"llama": "model", "gpt_neox": "gpt_neox"}[config.model_type]
        ).rotary_emb
        q, k = apply_rotary_pos_emb(
            q, k, *rotary(h, torch.arange(h.shape[1])[None]), unsqueeze_dim=2
        )
    pattern = torch.zeros(h.shape[0], heads, h.shape[1], h.shape[1], dtype=h.dtype)
    for i in range(heads):
        for t in range(h.shape[1]):
            scores = (q[:, t, None, i] * k[:, : t + 1, i * kv_heads // heads]).sum(-1) * scale
            pattern[:, i, t, : t + 1] = scores.softmax(-1)
    pattern = site("pattern", pattern)
    z = site(
        "z", torch.stack([pattern[:, i] @ v[:, :, i * kv_heads // heads] for i in range(heads)], 2)
    )
    out = block.get_submodule(parts["out"])
    matrix, width = out.weight if config.model_type == "gpt2" else out.weight.T, z.shape[-1]
    rows = site(
        "head_out",
        torch.stack([z[:, :, i] @ matrix[i * width : (i + 1) * width] for i in range(heads)], 2),
    )
    attn_out = site("attn_out", rows.sum(2) if out.bias is None else rows.sum(2) + out.bias)
    parallel = getattr(config, "use_parallel_residual", False)
    middle = h if parallel else site("resid_mid", h + attn_out)
    normed = block.get_submodule(parts["mlp_norm"])(site("mlp_in", middle))
    mlp, down = block.get_submodule(parts["mlp"]), block.get_submodule(parts["down"])
    if config.model_type == "llama":
        hidden = mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed)
    else:
        hidden = mlp.act((mlp.c_fc if config.model_type == "gpt2" else mlp.dense_h_to_4h)(normed))
    mlp_out = site("mlp_out", down(site("mlp_hidden", hidden)))
    return site("resid", (h + attn_out if parallel else middle) + mlp_out)


def projected(config: Any, block: Any, normed: Tensor, name: str) -> Tensor:
    """Queries, keys or values of all heads, (batch, position, head, d_head)."""
    place, heads = ("query", "key", "value").index(name), config.num_attention_heads
    if config.model_type == "llama":
        attn = block.self_attn
        return (attn.q_proj, attn.k_proj, attn.v_proj)[place](normed).unflatten(
            -1, (-1, config.head_dim)
        )
    if config.model_type == "gpt2":
        return block.attn.c_attn(normed).unflatten(-1, (3, heads, -1))[..., place, :, :]
    return block.attention.query_key_value(normed).unflatten(-1, (heads, 3, -1))[..., place, :]


def mamba_block(hf: Any, block: Any, h: Tensor, kind: str, change: Change) -> Tensor:
    """The residual stream after a Mamba block, (batch, position, d_model)."""

    def site(name: str, value: Tensor) -> Tensor:
        return change(value) if name == kind else value

    h = site("resid_pre", h)
    return site("resid", h + plain_hybrids.selective(block.mixer, block.norm, h, site))
