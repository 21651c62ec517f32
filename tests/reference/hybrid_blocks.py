"""Blocks of models of the gated delta rule, written out by head and by position.

The module lends its weights and its rotary tables.  Every site passes through a `Sites`, which
keeps it and may change it.  In float64 nothing is rounded to less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Change = Callable[[Tensor], Tensor]
TYPES = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid", "kimi_linear")

BY_O = ("olmo_hybrid", "kimi_linear")  # whose last norm and matrix are called o_norm and o_proj
AFTER = "post_feedforward_layernorm"


class Sites:
    """Values by kind; `changes` act on them."""

    def __init__(self, changes: Mapping[str, Change] = MappingProxyType({})) -> None:
        self.values: dict[str, Tensor] = {}
        self._changes, self._steps = changes, {}

    def __call__(self, kind: str, value: Tensor) -> Tensor:
        self.values[kind] = self._changes[kind](value) if kind in self._changes else value
        return self.values[kind]

    def at(self, kind: str, t: int, length: int, value: Tensor) -> Tensor:
        """One position of a site in a recurrence; a change gets it as the value of all of them."""
        if kind in self._changes:
            value = self._changes[kind](torch.stack([value] * length, 1))[:, t]
        self._steps.setdefault(kind, []).append(value)
        self.values[kind] = torch.stack(self._steps[kind], 1)
        return value


def hybrid_block(hf: Any, layer: int, h: Tensor, site: Sites) -> Tensor:
    """The stream after a block, (batch, position, d_model)."""
    block, type_ = hf.model.layers[layer], hf.config.model_type
    h = site("resid_pre", h)
    mixer = latent_attention if hasattr(hf.config, "kv_lora_rank") else attention
    if (getattr(hf.config, "layer_types", None) or ["full"] * 9)[layer] == "linear_attention":
        mixer = delta_rule
    middle = site("resid_mid", h + mixer(hf, block, h, site))
    after = AFTER in dict(block.named_children())  # norms stand after the parts, not before
    normed = site("mlp_in", middle)
    normed = normed if after else rms(type_, block.post_attention_layernorm, normed)
    out = mlp(block.mlp, normed, site)
    out = rms(type_, block.get_submodule(AFTER), out) if after else out
    return site("resid", middle + site("mlp_out", out))


def mlp(module: Any, normed: Tensor, site: Sites) -> Tensor:
    if hasattr(module, "experts"):
        return module(normed)
    hidden = site("mlp_hidden", F.silu(module.gate_proj(normed)) * module.up_proj(normed))
    return module.down_proj(hidden)


def rms(type_: str, norm: Any, x: Tensor) -> Tensor:
    """Over the root mean square, times the weight, or 1 + weight in Qwen's."""
    eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    weight = norm.weight + 1 if type_.startswith("qwen") else norm.weight
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def delta_rule(hf: Any, block: Any, h: Tensor, site: Sites) -> Tensor:
    """What the mixer adds to the stream."""
    type_ = hf.config.model_type
    mixer = block.self_attn if type_ == "kimi_linear" else block.linear_attn
    normed = rms(type_, block.input_layernorm, site("mixer_in", h))
    parts = PARTS[type_](mixer, normed)
    x, z = site("conv_in", torch.cat(parts[:3], -1)), site("gate_in", parts[3])
    conv_out = convolved(mixer.conv1d, x, site)
    rates, length, heads = getattr(mixer, "forget_gate", mixer), h.shape[1], parts[4].shape[-1]
    d_value = z.shape[-1] // heads
    d_key = mixer.head_dim if type_ == "kimi_linear" else mixer.head_k_dim
    key_heads = parts[1].shape[-1] // d_key
    q, k, v = F.silu(conv_out).split([part.shape[-1] for part in parts[:3]], -1)
    q, k = (x.unflatten(-1, (key_heads, d_key)) for x in (q, k))
    q = site("query", q / (q.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt())
    k = site("key", k / (k.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt())
    v = site("value", v.unflatten(-1, (heads, d_value)))
    largest = 2 if getattr(mixer, "allow_neg_eigval", False) else 1
    beta = site("beta", torch.sigmoid(parts[4]) * largest)
    step = F.softplus(parts[5] + rates.dt_bias).unflatten(-1, (heads, -1))
    decay = torch.exp(-rates.A_log.flatten().exp()[:, None] * step)  # one for each key channel
    if type_ == "kimi_linear":
        decay = site("key_decay", decay)
    else:
        decay = site("decay", decay[..., 0])[..., None].expand(*decay.shape[:-1], d_key)
    state, y = h.new_zeros(h.shape[0], heads, d_value, d_key), []
    for t in range(length):
        rows, read = [], []
        for i in range(heads):
            own = i * key_heads // heads
            faded = decay[:, t, i, None] * state[:, i]
            missing = v[:, t, i] - (faded * k[:, t, own, None]).sum(-1)
            rows.append(beta[:, t, i, None, None] * missing[..., None] * k[:, t, own, None])
        write = site.at("write", t, length, torch.cat(rows, 1)).unflatten(1, (heads, -1))
        faded = decay[:, t, :, None] * state
        state = site.at("state", t, length, (faded + write).flatten(1, 2)).unflatten(1, (heads, -1))
        for i in range(heads):
            query = q[:, t, i * key_heads // heads, None] / d_key**0.5
            read.append((state[:, i] * query).sum(-1))
        y.append(torch.cat(read, -1))
    y = site("y", torch.stack(y, 1)).unflatten(-1, (heads, d_value))
    norm, out = (mixer.o_norm, mixer.o_proj) if type_ in BY_O else (mixer.norm, mixer.out_proj)
    scaled = y / (y.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight
    gate = site("gate", z.sigmoid() if type_ == "kimi_linear" else F.silu(z))
    return site("mixer_out", out(scaled.flatten(-2) * gate))


def convolved(conv: Any, x: Tensor, site: Sites) -> Tensor:
    weight, (batch, length, width) = conv.weight[:, 0], x.shape
    kernel = weight.shape[1]
    taps = x.new_zeros(batch, length, kernel, width)
    for t in range(length):
        for j in range(kernel):
            if t - (kernel - 1) + j >= 0:
                taps[:, t, j] = weight[:, j] * x[:, t - (kernel - 1) + j]
    return site("conv_out", site("conv_taps", taps).sum(2))


def _qwen3_next(mixer: Any, normed: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys, values, gates, and the inputs of beta and decay; each key head in turn."""
    shared = mixer.num_v_heads // mixer.num_k_heads
    of_key, widths = [], [mixer.head_k_dim] * 2 + [shared * mixer.head_v_dim] * 2
    for i, rows in enumerate(mixer.in_proj_qkvz.weight.chunk(mixer.num_k_heads)):
        rates = mixer.in_proj_ba.weight.chunk(mixer.num_k_heads)[i]
        of_key.append([*(normed @ rows.T).split(widths, -1), *(normed @ rates.T).chunk(2, -1)])
    return tuple(torch.cat(part, -1) for part in zip(*of_key, strict=True))


def _qwen3_5(mixer: Any, normed: Tensor) -> tuple[Tensor, ...]:
    keys = mixer.num_k_heads * mixer.head_k_dim
    three = mixer.in_proj_qkv(normed)
    rest = (mixer.in_proj_z, mixer.in_proj_b, mixer.in_proj_a)
    q, k, v = three[..., :keys], three[..., keys : 2 * keys], three[..., 2 * keys :]
    return q, k, v, *(part(normed) for part in rest)


def _olmo(mixer: Any, normed: Tensor) -> tuple[Tensor, ...]:
    return tuple(getattr(mixer, f"{part}_proj")(normed) for part in "qkvgba")


def _kimi(mixer: Any, normed: Tensor) -> tuple[Tensor, ...]:
    forget = mixer.forget_gate
    return (
        *(getattr(mixer, f"{part}_proj")(normed) for part in "qkv"),
        mixer.g_b_proj(mixer.g_a_proj(normed)),
        mixer.b_proj(normed),
        forget.f_b_proj(forget.f_a_proj(normed)),
    )


PARTS = {
    "qwen3_next": _qwen3_next,
    "qwen3_5_text": _qwen3_5,
    "qwen3_5_moe_text": _qwen3_5,
    "olmo_hybrid": _olmo,
    "kimi_linear": _kimi,
}
"""Queries, keys, values, what gates them, and the inputs of beta and decay."""


def latent_attention(hf: Any, block: Any, h: Tensor, site: Sites) -> Tensor:
    """What attention adds whose keys and values are of one latent vector."""
    attn, type_, heads = block.self_attn, hf.config.model_type, hf.config.num_attention_heads
    rank, nope, width = attn.kv_lora_rank, attn.qk_nope_head_dim, attn.qk_head_dim
    streams = {
        read: site(f"{read}_in", torch.stack([h] * heads, 2)) for read in ("query", "key", "value")
    }
    rows: dict[str, list[Tensor]] = {"query": [], "key": [], "value": []}
    for i in range(heads):
        x = {r: rms(type_, block.input_layernorm, s[:, :, i]) for r, s in streams.items()}
        if attn.q_proj is None:
            q = attn.q_b_proj(rms(type_, attn.q_a_layernorm, attn.q_a_proj(x["query"])))
        else:
            q = attn.q_proj(x["query"])
        rows["query"].append(q[..., i * width : (i + 1) * width])
        for read in ("key", "value"):
            both = attn.kv_a_proj_with_mqa(x[read])
            of_latent = attn.kv_b_proj(rms(type_, attn.kv_a_layernorm, both[..., :rank]))
            own = of_latent.unflatten(-1, (heads, -1))[..., i, :]
            key = torch.cat([own[..., :nope], both[..., rank:]], -1)
            rows[read].append(own[..., nope:] if read == "value" else key)
    q, k, v = (site(read, torch.stack(each, 2)) for read, each in rows.items())
    if type_.startswith("deepseek"):
        q, k = (torch.cat([x[..., :nope], turned_last(hf, x[..., nope:])], -1) for x in (q, k))
    return site("attn_out", weighted(q, k, v, width**-0.5, attn.o_proj, site))


def weighted(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    out: Any,
    site: Sites,
    gates: Tensor | None = None,
) -> Tensor:
    """The sum of the heads; q, k, v (batch, position, head, width)."""
    length, heads = q.shape[1:3]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    scores = (q @ k.mT * scale).masked_fill(future, -torch.inf)
    z = site("z", (site("pattern", scores.softmax(-1)) @ v).transpose(1, 2))
    if gates is not None:
        z = z * site("head_gate", gates.sigmoid())
    matrix = out.weight.T.unflatten(0, (heads, -1))
    return site("head_out", torch.einsum("...hd,hdm->...hm", z, matrix)).sum(2)


def attention(hf: Any, block: Any, h: Tensor, site: Sites) -> Tensor:
    """What attention adds to the stream; Qwen's queries' matrix gives gates of the heads too."""
    config, attn, type_ = hf.config, block.self_attn, hf.config.model_type
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, attn.head_dim
    gated = type_.startswith("qwen")

    def before(x: Tensor) -> Tensor:
        return rms(type_, block.input_layernorm, x) if gated else x

    def head_norm(norm: Any, x: Tensor) -> Tensor:
        """Head by head in Qwen's, over all heads together in OLMo's."""
        return rms(type_, norm, x) if gated else rms(type_, norm, x.flatten(-2)).view_as(x)

    streams = [
        before(site(f"{read}_in", torch.stack([h] * n, 2)))
        for read, n in (("query", heads), ("key", kv_heads), ("value", kv_heads))
    ]
    rows = attn.q_proj.weight.unflatten(0, (heads, -1, width))
    matrices = (
        rows[:, 0],
        *(m.weight.unflatten(0, (kv_heads, -1)) for m in (attn.k_proj, attn.v_proj)),
    )
    each = zip(streams, matrices, strict=True)
    q, k, v = (torch.einsum("...hm,hdm->...hd", x, matrix) for x, matrix in each)
    q = site("query", head_norm(attn.q_norm, q))
    k = site("key", head_norm(attn.k_norm, k))
    v = site("value", v)
    if hf.model.rotary_emb is not None:
        tables = hf.model.rotary_emb(h, torch.arange(h.shape[1])[None])
        q, k = (turned(x, *(t[:, :, None] for t in tables)) for x in (q, k))
    gates = torch.einsum("...m,hdm->...hd", before(h), rows[:, 1]) if gated else None
    out = weighted(q, k, v, width**-0.5, attn.o_proj, site, gates)
    return site("attn_out", out if gated else rms(type_, block.post_attention_layernorm, out))


def turned_last(hf: Any, x: Tensor) -> Tensor:
    """x (..., head, width), pairs of neighbours or of halves turned by angles of their own."""
    width, out = x.shape[-1], x.clone()
    tables = hf.model.rotary_emb(x, torch.arange(x.shape[1])[None])
    cos, sin = (tables.real, tables.imag) if isinstance(tables, Tensor) else tables
    for i in range(width // 2):
        pairs = getattr(hf.config, "rope_interleave", True)
        a, b = (2 * i, 2 * i + 1) if pairs else (i, i + width // 2)
        c, s = cos[0, :, None, i], sin[0, :, None, i]
        out[..., a], out[..., b] = x[..., a] * c - x[..., b] * s, x[..., b] * c + x[..., a] * s
    return out


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (..., head, width) with its first dimensions rotated."""
    half = cos.shape[-1] // 2
    first, second, kept = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos[..., :half], sin[..., :half]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, kept], -1)
