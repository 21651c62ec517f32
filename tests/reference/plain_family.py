"""Blocks of Llama's family, by head and by position, every site's value passed to `site`.

The Hugging Face module lends weights, activations, rotary tables and modules of experts; nothing
else of it runs.  In float64 nothing is rounded to less but those tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Site = Callable[[str, Tensor], Tensor]

IN, POST = "input_layernorm", "post_attention_layernorm"
BEFORE_MLP, AFTER_MLP = "pre_feedforward_layernorm", "post_feedforward_layernorm"
AFTER = (None, POST, None, AFTER_MLP)
AROUND = (IN, POST, BEFORE_MLP, AFTER_MLP)
NORMS: dict[str, tuple[str | None, str | None, str | None, str | None]] = {
    "olmo2": AFTER,
    "olmo3": AFTER,
    "flex_olmo": AFTER,
    "exaone4": AFTER,
    "gemma2": AROUND,
    "gemma3_text": AROUND,
    "vaultgemma": (IN, None, BEFORE_MLP, None),
    "apertus": ("attention_layernorm", None, "feedforward_layernorm", None),
    "glm4": (IN, "post_self_attn_layernorm", POST, "post_mlp_layernorm"),
    "hyperclovax": (IN, "post_norm1", POST, "post_norm2"),
}
"""Before and after attention, before and after the MLP, where it is not the first and third."""
SIDE_BY_SIDE = ("cohere", "cohere2", "phi", "stablelm")
IN_PAIRS = ("cohere", "cohere2", "glm", "glm4", "helium", "ernie4_5", "ernie4_5_moe")
OVER_ALL_HEADS = ("olmo2", "olmo3", "flex_olmo", "olmoe", "minimax_m2")
NORMED_LATE = ("hunyuan_v1_dense", "hunyuan_v1_moe", "nanochat")
WINDOW_EVERYWHERE = ("mistral", "mixtral", "phi3", "starcoder2")
ROTATED_IN_WINDOWS = ("cohere2", "exaone4", "exaone_moe")
TABLES_BY_KIND = ("gemma3_text", "olmo3", "mellum")
ONE_AND_WEIGHT = ("gemma", "gemma2", "gemma3_text", "vaultgemma", "nemotron")
"""Norms multiply with 1 + weight."""
MEAN_TAKEN = ("LayerNorm", "OlmoLayerNorm", "CohereLayerNorm", "Cohere2LayerNorm")
MEAN_TAKEN += ("NemotronLayerNorm1P",)


def plain_block(hf: Any, block: Any, h: Tensor, site: Site) -> Tensor:
    """The residual stream after a block."""
    config, type_ = hf.config, hf.config.model_type
    side_by_side = type_ in SIDE_BY_SIDE and getattr(config, "use_parallel_residual", True)
    default = (IN, None, IN if side_by_side else POST, None)
    before, after, before_mlp, after_mlp = NORMS.get(type_, default)
    factor = getattr(config, "residual_multiplier", 1)

    def normed(name: str | None, x: Tensor) -> Tensor:
        return x if name is None else norm(type_, block.get_submodule(name), x)

    h = site("resid_pre", h)
    heads = attention(hf, block.self_attn, lambda x: normed(before, x), h, site)
    attn_out = site("attn_out", normed(after, heads) * factor)
    middle = h if side_by_side else site("resid_mid", h + attn_out)
    local = mlp(block, normed(before_mlp, site("mlp_in", middle)), site)
    mlp_out = site("mlp_out", normed(after_mlp, local) * factor)
    return site("resid", (h + attn_out if side_by_side else middle) + mlp_out)


def plain_logits(hf: Any, tokens: Tensor) -> Tensor:
    """Logits of a whole pass, block by block."""
    config, trunk = hf.config, hf.model
    type_ = config.model_type
    last = trunk.final_layernorm if type_ == "phi" else trunk.norm
    h = trunk.embed_tokens(tokens) * getattr(config, "embedding_multiplier", 1)
    h = norm(type_, last, h) if type_ == "nanochat" else h
    for block in trunk.layers:
        h = plain_block(hf, block, h, lambda _kind, value: value)
    logits = hf.lm_head(norm(type_, last, h))
    scaling = getattr(config, "logits_scaling", 1)
    logits = logits * scaling if type_ == "hyperclovax" else logits / scaling
    logits = logits * getattr(config, "logit_scale", 1)
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def norm(type_: str, module: Any, x: Tensor) -> Tensor:
    """Over the root mean square, or over the deviation with the mean taken away."""
    name = type(module).__name__
    if name == "Identity":
        return x
    if name in MEAN_TAKEN:
        x = x - x.mean(-1, keepdim=True)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", 1e-5))
    x = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    x = x if weight is None else x * (weight + 1 if type_ in ONE_AND_WEIGHT else weight)
    return x if bias is None else x + bias


def mlp(block: Any, normed: Tensor, site: Site) -> Tensor:
    """What an MLP, or experts, make of the normed stream."""
    if hasattr(block, "block_sparse_moe"):
        out = block.block_sparse_moe(normed)
        return out + block.shared_mlp(normed) if hasattr(block, "shared_mlp") else out
    module = block.mlp
    parts = dict(module.named_children())
    if "experts" in parts:
        out = module(normed)
        return out[0] if isinstance(out, tuple) else out
    act = next(getattr(module, n) for n in ("act_fn", "activation_fn", "act") if hasattr(module, n))
    down = next(parts[name] for name in ("down_proj", "c_proj", "fc2") if name in parts)
    if "gate_up_proj" in parts:
        both = parts["gate_up_proj"](normed)
        width = both.shape[-1] // 2
        return down(site("mlp_hidden", act(both[..., :width]) * both[..., width:]))
    up = next(parts[name] for name in ("up_proj", "c_fc", "fc1") if name in parts)
    gated = act(parts["gate_proj"](normed)) * up(normed) if "gate_proj" in parts else None
    return down(site("mlp_hidden", act(up(normed)) if gated is None else gated))


def attention(
    hf: Any, attn: Any, normed: Callable[[Tensor], Tensor], h: Tensor, site: Site
) -> Tensor:
    """The sum of the heads, with bias."""
    config, type_, length = hf.config, hf.config.model_type, h.shape[1]
    heads, width = config.num_attention_heads, attn.head_dim
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    counts = {"query": heads, "key": kv_heads, "value": kv_heads}
    read: dict[str, Tensor] = {}
    for name, (weight, bias) in matrices(attn, [n * width for n in counts.values()]).items():
        streams, rows = site(f"{name}_in", torch.stack([h] * counts[name], 2)), []
        for i in range(counts[name]):
            own = slice(i * width, (i + 1) * width)
            row = normed(streams[:, :, i]) @ weight[own].T
            rows.append(row if bias is None else row + bias[own])
        x = torch.stack(rows, 2)
        x = x if type_ in NORMED_LATE else head_norm(type_, attn, name, x)
        clip = getattr(config, "clip_qkv", None)
        read[name] = site(name, x if clip is None else x.clamp(-clip, clip))
    turned = {name: rotated(hf, attn, read[name]) for name in ("query", "key")}
    if type_ in NORMED_LATE:
        turned = {name: head_norm(type_, attn, name, x) for name, x in turned.items()}
    pattern = h.new_zeros(h.shape[0], heads, length, length)
    for i in range(heads):
        key = turned["key"][:, :, i * kv_heads // heads]
        for t in range(length):
            first = max(0, t + 1 - config.sliding_window) if windowed(attn, config) else 0
            scores = (key[:, first : t + 1] * turned["query"][:, t, None, i]).sum(-1)
            pattern[:, i, t, first : t + 1] = weights(config, attn, scores, i)
    pattern = site("pattern", pattern)
    each = [pattern[:, i] @ read["value"][:, :, i * kv_heads // heads] for i in range(heads)]
    z = site("z", torch.stack(each, 2))
    out = next(getattr(attn, name) for name in ("o_proj", "dense") if hasattr(attn, name))
    parts = [z[:, :, i] @ out.weight[:, i * width : (i + 1) * width].T for i in range(heads)]
    summed = site("head_out", torch.stack(parts, 2)).sum(2)
    return summed if out.bias is None else summed + out.bias


def matrices(attn: Any, widths: Sequence[int]) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Weight and bias of queries, keys and values."""
    names = ("query", "key", "value")
    if hasattr(attn, "qkv_proj"):
        return {
            name: (rows, None)
            for name, rows in zip(names, attn.qkv_proj.weight.split(list(widths)), strict=True)
        }
    maps = (attn.q_proj, attn.k_proj, attn.v_proj)
    return {name: (m.weight, m.bias) for name, m in zip(names, maps, strict=True)}


def head_norm(type_: str, attn: Any, name: str, x: Tensor) -> Tensor:
    """Queries or keys (batch, position, head, d_head) normed, where the module has norms."""
    names = {"query": ("q_norm", "q_layernorm", "query_layernorm")}
    names |= {"key": ("k_norm", "k_layernorm", "key_layernorm"), "value": ()}
    module = next((getattr(attn, n) for n in names[name] if hasattr(attn, n)), None)
    if module is None:
        return x
    if type_ in OVER_ALL_HEADS:
        return norm(type_, module, x.flatten(2)).view_as(x)
    if type_ == "stablelm":
        return torch.stack([norm(type_, one, x[:, :, i]) for i, one in enumerate(module.norms)], 2)
    return norm(type_, module, x)


def weights(config: Any, attn: Any, scores: Tensor, head: int) -> Tensor:
    """The pattern of the positions seen, from products of query and keys."""
    scale = attn.head_dim**-0.5
    if hasattr(config, "attention_multiplier"):
        scale = config.attention_multiplier
    if hasattr(config, "query_pre_attn_scalar"):
        scale = config.query_pre_attn_scalar**-0.5
    scores, cap = scores * scale, getattr(config, "attn_logit_softcapping", None)
    if cap is not None and config.model_type != "gemma3_text":  # it does nothing with the number
        scores = cap * torch.tanh(scores / cap)
    highest = scores.max()
    grown = torch.exp(scores - highest)
    total = grown.sum(-1, keepdim=True)
    if hasattr(attn, "sinks"):
        total = total + torch.exp(attn.sinks[head] - highest)
    return grown / total


def windowed(attn: Any, config: Any) -> bool:
    """Whether a block sees a window alone."""
    if config.model_type in WINDOW_EVERYWHERE:
        return config.sliding_window is not None
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return kinds[attn.layer_idx] == "sliding_attention"


def rotated(hf: Any, attn: Any, x: Tensor) -> Tensor:
    """x (batch, position, head, d_head) with pairs of its first dimensions turned."""
    config, type_, layer = hf.config, hf.config.model_type, attn.layer_idx
    if type_ in ROTATED_IN_WINDOWS and config.layer_types[layer] != "sliding_attention":
        return x
    if type_ == "smollm3" and not config.no_rope_layers[layer]:
        return x
    if type_ in ("granite_swa", "granitemoe_swa") and not config.layer_rope_theta[layer]:
        return x
    positions, module = torch.arange(x.shape[1])[None], hf.model.rotary_emb
    if type_ in TABLES_BY_KIND:
        cos, sin = module(x, positions, config.layer_types[layer])
    elif type_ in ("granite_swa", "granitemoe_swa"):
        theta = config.layer_rope_theta[layer]
        bases = {one.config.rope_parameters["rope_theta"]: one for one in hf.model.rotary_embs}
        cos, sin = bases[theta](x, positions)
    else:
        cos, sin = module(x, positions)
    n_pairs = cos.shape[-1] if type_ == "gpt_oss" else cos.shape[-1] // 2
    out = x.clone()
    for j in range(n_pairs):
        a, b = (2 * j, 2 * j + 1) if type_ in IN_PAIRS else (j, j + n_pairs)
        column = 2 * j if type_.startswith("cohere") else j
        c, s = cos[..., column, None], sin[..., column, None]
        s = -s if type_ == "nanochat" else s
        out[..., a] = x[..., a] * c - x[..., b] * s
        out[..., b] = x[..., b] * c + x[..., a] * s
    return out


def seen_by_hooks(hf: Any, tokens: Tensor) -> dict[str, Tensor]:
    """What hooks on the unmodified module see inside blocks; attention must be `eager`."""
    values: dict[str, Tensor] = {}
    handles = []

    def remember(name: str, take: Callable[[Any, Any], Tensor]) -> Callable[..., None]:
        def hook(_m: Any, args: Any, out: Any) -> None:
            values[name] = take(args, out)

        return hook

    heads = hf.config.num_attention_heads
    for layer, block in enumerate(hf.model.layers):
        attn, mlp = block.self_attn, getattr(block, "mlp", None)
        out = attn.dense if hasattr(attn, "dense") else attn.o_proj
        taken: list[tuple[str, Any, Callable[[Any, Any], Tensor]]] = [
            ("z", out, lambda args, _out: args[0].unflatten(-1, (heads, -1))),
        ]
        if "granite" not in hf.config.model_type or not hasattr(attn, "sinks"):  # theirs lack them
            taken.append(("pattern", attn, lambda _args, out: out[1]))
        last = next((n for n in ("down_proj", "c_proj", "fc2") if hasattr(mlp, n)), None)
        if last is not None:
            taken.append(("mlp_hidden", getattr(mlp, last), lambda args, _out: args[0]))
        for kind, module, take in taken:
            handles.append(module.register_forward_hook(remember(f"{kind}.{layer}", take)))
    hf(tokens)
    for handle in handles:
        handle.remove()
    return values
