"""Blocks of Mamba-2 and of hybrids, by head and by position, every site's value passed to `site`.

The Hugging Face module lends its weights, norms and rotary tables, and modules of experts.
`site(kind, value)` gives the value that the block goes on with.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from tests.reference import plain_family, tiny_family
from torch import Tensor

Site = Callable[[str, Tensor], Tensor]
BLOCKS = {
    "mamba2": "backbone.layers",
    "falcon_mamba": "backbone.layers",
    "falcon_h1": "model.layers",
    "bamba": "model.layers",
    "granitemoehybrid": "model.layers",
    "jamba": "model.layers",
    "nemotron_h": "model.layers",
    "zamba2": "model.layers",
    **dict.fromkeys(tiny_family.FIELDS, "model.layers"),
}


def sites_and_logits(hf: Any, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Every site's value by name, and the logits of the module."""
    blocks = list(hf.get_submodule(BLOCKS[hf.config.model_type]))
    seen: list[tuple[Tensor, Tensor]] = []
    handles = [
        block.register_forward_hook(
            lambda _m, args, kwargs, out: seen.append((stream(args, kwargs), first(out))),
            with_kwargs=True,
        )
        for block in blocks
    ]
    logits = hf(tokens).logits
    for handle in handles:
        handle.remove()
    values = {"embed": seen[0][0]}
    for layer, (block, (before, after)) in enumerate(zip(blocks, seen, strict=True)):

        def remember(kind: str, value: Tensor, layer: int = layer) -> Tensor:
            values[f"{kind}.{layer}"] = value
            return value

        ours = plain_block(hf, block, before, remember, seen[0][0])
        torch.testing.assert_close(ours, after.to(ours.dtype), atol=1e-5, rtol=1e-4)
    return values, logits


def logits_with(
    hf: Any, tokens: Tensor, layer: int, kind: str, change: Callable[[Tensor], Tensor]
) -> Tensor:
    """Logits of the module with `change` applied to the whole value of a site of that layer."""
    block = hf.get_submodule(BLOCKS[hf.config.model_type])[layer]

    def changed(name: str, value: Tensor) -> Tensor:
        return change(value) if name == kind else value

    def replaced(_m: Any, args: Any, kwargs: Any, out: Any) -> Any:
        h = stream(args, kwargs)
        # Zamba2's blocks are handed the embeddings next
        ours = plain_block(hf, block, h, changed, args[1] if len(args) > 1 else h)
        return (ours, *out[1:]) if isinstance(out, tuple) else ours

    handle = block.register_forward_hook(replaced, with_kwargs=True)
    logits = hf(tokens).logits
    handle.remove()
    return logits


def stream(args: Any, kwargs: Any) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def plain_block(hf: Any, block: Any, h: Tensor, site: Site, embedded: Tensor) -> Tensor:
    """The residual stream after a block; embedded: what block 0 read."""
    if hf.config.model_type in tiny_family.FIELDS:
        return plain_family.plain_block(hf, block, h, site)
    h = site("resid_pre", h)
    if hf.config.model_type == "zamba2":
        return site("resid", h + beside_a_shared_block(hf, block, h, site, embedded))
    if not hasattr(block, "input_layernorm"):
        return site("resid", h + only_part(hf, block, h, site))
    h = site("resid_mid", h + mixers(hf, block, h, site))
    return site("resid", h + local_part(hf, block, h, site))


def only_part(hf: Any, block: Any, h: Tensor, site: Site) -> Tensor:
    """What a block of one part adds."""
    module, norm, kind = block.mixer, block.norm, getattr(block, "block_type", None)
    if kind == "full_attention":
        return attention(hf, module, norm, h, site)
    if kind == "mlp":
        return mlp(module.down_proj, lambda x: module.act_fn(module.up_proj(x)), norm, h, site)
    if kind == "moe":
        return experts(module, norm, h, site)
    return (
        selective(module, norm, h, site)
        if hasattr(module, "x_proj")
        else ssd(module, norm, h, site)
    )


def beside_a_shared_block(hf: Any, block: Any, h: Tensor, site: Site, embedded: Tensor) -> Tensor:
    """What Zamba2's Mamba-2 adds, which may read attention and an MLP of several blocks too."""
    if not hasattr(block, "shared_transformer"):
        return ssd(block.mamba, rms(block.input_layernorm), h, site)
    own, shared = block.mamba_decoder, block.shared_transformer
    attended, feed_forward = shared.self_attn, shared.feed_forward
    place = hf.config.hybrid_layer_ids.index(own.layer_idx)
    embedded = site("embed_in", embedded)

    def projection(read: str) -> Any:
        def of(x: Tensor) -> Tensor:
            y = getattr(attended, f"{read}_proj")(x)
            if not hf.config.use_shared_attention_adapter:
                return y
            return y + getattr(attended, f"linear_{read}_adapter_list")[place](x)

        return of

    def hidden(x: Tensor) -> Tensor:
        both = feed_forward.gate_up_proj(x) + feed_forward.gate_up_proj_adapter_list[place](x)
        gate, up = both.chunk(2, -1)
        return F.gelu(gate) * up

    module = SimpleNamespace(
        **{f"{read}_proj": projection(read) for read in "qkv"},
        scaling=(attended.head_dim / 2) ** -0.5,
        o_proj=attended.o_proj,
    )
    norm = rms(shared.input_layernorm)
    x = attention(hf, module, lambda x: norm(torch.cat([x, embedded], -1)), h, site)
    down = torch.nn.Sequential(feed_forward.down_proj, block.linear)
    x = mlp(down, hidden, rms(shared.pre_ff_layernorm), x, site)
    return ssd(own.mamba, rms(own.input_layernorm), h + x, site)


def rms(norm: Any) -> Callable[[Tensor], Tensor]:
    """A norm whose module goes through float32, in the dtype of what it norms."""
    epsilon = norm.variance_epsilon
    return lambda x: norm.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)


def mixers(hf: Any, block: Any, h: Tensor, site: Site) -> Tensor:
    """What attention, a state space or both add."""
    config, norm = hf.config, block.input_layernorm
    factor = getattr(config, "residual_multiplier", 1)
    if config.model_type == "falcon_h1":
        factors = config.attention_in_multiplier, config.attention_out_multiplier
        attended = attention(hf, block.self_attn, norm, h, site, *factors)
        factors = config.ssm_in_multiplier, config.ssm_out_multiplier
        return attended + ssd(block.mamba, norm, h, site, *factors)
    if getattr(block, "mamba", None) is None:
        return attention(hf, block.self_attn, norm, h, site, after=factor)
    if config.model_type == "jamba":
        return selective(block.mamba, norm, h, site)
    return ssd(block.mamba, norm, h, site, after=factor)


def local_part(hf: Any, block: Any, h: Tensor, site: Site) -> Tensor:
    """What an MLP or experts add."""
    config = hf.config
    if config.model_type == "granitemoehybrid":
        shared, norm = block.shared_mlp, block.post_attention_layernorm
        factor = config.residual_multiplier
        if block.block_sparse_moe is not None:
            return experts(lambda x: block.block_sparse_moe(x) + shared(x), norm, h, site, factor)

        def hidden(x: Tensor) -> Tensor:
            gate, up = shared.input_linear(x).chunk(2, -1)
            return F.silu(gate) * up

        return mlp(shared.output_linear, hidden, norm, h, site, factor)
    module, norm = block.feed_forward, block.pre_ff_layernorm
    if hasattr(module, "router"):
        return experts(module, norm, h, site)
    before, after = getattr(config, "mlp_multipliers", (1, 1))
    return mlp(
        module.down_proj,
        lambda x: F.silu(module.gate_proj(x) * before) * module.up_proj(x),
        norm,
        h,
        site,
        after,
    )


def mlp(
    down: Any,
    hidden: Callable[[Tensor], Tensor],
    norm: Any,
    h: Tensor,
    site: Site,
    after: float = 1,
) -> Tensor:
    inner = site("mlp_hidden", hidden(norm(site("mlp_in", h))))
    return site("mlp_out", down(inner) * after)


def experts(module: Any, norm: Any, h: Tensor, site: Site, after: float = 1) -> Tensor:
    return site("mlp_out", module(norm(site("mlp_in", h))) * after)


def attention(
    hf: Any, module: Any, norm: Any, h: Tensor, site: Site, before: float = 1, after: float = 1
) -> Tensor:
    """What attention adds, head by head and position by position."""
    config, (batch, length, _) = hf.config, h.shape
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    reads = (
        ("query", module.q_proj, heads, 1),
        ("key", module.k_proj, kv_heads, getattr(config, "key_multiplier", 1)),
        ("value", module.v_proj, kv_heads, 1),
    )
    values = []
    for name, projection, count, factor in reads:
        streams = site(f"{name}_in", torch.stack([h] * count, 2))
        rows = [projection(norm(streams[:, :, i]) * before) for i in range(count)]
        rows = [row.unflatten(-1, (count, -1))[:, :, i] for i, row in enumerate(rows)]
        values.append(site(name, torch.stack(rows, 2) * factor))
    q, k, v = values
    rotary = getattr(hf.model, "rotary_emb", None)
    if rotary is not None:
        cos, sin = (t[:, :, None] for t in rotary(h, torch.arange(length)[None]))
        q, k = turned(q, cos, sin), turned(k, cos, sin)
    pattern = torch.zeros(batch, heads, length, length, dtype=h.dtype)
    for i in range(heads):
        for t in range(length):
            scores = (q[:, t, None, i] * k[:, : t + 1, i * kv_heads // heads]).sum(-1)
            pattern[:, i, t, : t + 1] = (scores * module.scaling).softmax(-1)
    pattern = site("pattern", pattern)
    rows = [pattern[:, i] @ v[:, :, i * kv_heads // heads] for i in range(heads)]
    z, matrix = site("z", torch.stack(rows, 2)), module.o_proj.weight.T.unflatten(0, (heads, -1))
    rows = [z[:, :, i] @ matrix[i] for i in range(heads)]
    out = site("head_out", torch.stack(rows, 2)).sum(2)
    out = out if module.o_proj.bias is None else out + module.o_proj.bias
    return site("attn_out", out * after)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of the first dimensions rotated; the others as they are."""
    width = cos.shape[-1]
    first, second = x[..., : width // 2], x[..., width // 2 : width]
    c, s = cos[..., : width // 2], sin[..., : width // 2]
    return torch.cat([first * c - second * s, second * c + first * s, x[..., width:]], -1)


def selective(mixer: Any, norm: Any, h: Tensor, site: Site) -> Tensor:
    """What a mixer of Mamba-1 adds, position by position."""
    x, gate_in = mixer.in_proj(norm(site("mixer_in", h))).chunk(2, dim=-1)
    x, gate_in = site("conv_in", x), site("gate_in", gate_in)
    u = site("ssm_input", F.silu(convolved(mixer.conv1d, x, site)))
    length, d_state = x.shape[1], mixer.A_log.shape[1]
    dt_low, B, C = mixer.x_proj(u).split([mixer.time_step_rank, d_state, d_state], dim=-1)
    if hasattr(mixer, "dt_layernorm"):
        dt_low, B, C = mixer.dt_layernorm(dt_low), mixer.b_layernorm(B), mixer.c_layernorm(C)
    dt, B, C = site("dt", F.softplus(mixer.dt_proj(dt_low))), site("B", B), site("C", C)
    A_bar = site("A_bar", torch.exp(dt.unsqueeze(-1) * -torch.exp(mixer.A_log)))
    write = site("write", site("B_bar", dt.unsqueeze(-1) * B.unsqueeze(2)) * u.unsqueeze(-1))
    states = recurrence(A_bar, write, site)
    y = site("y", torch.stack([(states[:, t] * C[:, t, None]).sum(-1) for t in range(length)], 1))
    inner = (y + site("skip", mixer.D * u)) * site("gate", F.silu(gate_in))
    return site("mixer_out", mixer.out_proj(inner))


def recurrence(decay: Tensor, write: Tensor, site: Site) -> Tensor:
    """The state after every position."""
    before, rows = torch.zeros_like(write[:, 0]), []
    for t in range(write.shape[1]):
        state = decay[:, t] * before + write[:, t]
        # the whole value so far; only the current position counts
        so_far = torch.stack([*rows, *[state] * (write.shape[1] - t)], 1)
        before = site("state", so_far)[:, t]
        rows.append(before)
    return torch.stack(rows, 1)


def ssd(
    mixer: Any, norm: Any, h: Tensor, site: Site, before: float = 1, after: float = 1
) -> Tensor:
    """What a mixer of Mamba-2 adds, head by head.

    before, after   factors of what it takes and of what it gives
    """
    batch, length, _ = h.shape
    heads, groups, d_state = mixer.num_heads, mixer.n_groups, mixer.ssm_state_size
    width, d_inner = mixer.head_dim, mixer.num_heads * mixer.head_dim
    projected = mixer.in_proj(norm(site("mixer_in", h)) * before) * getattr(mixer, "mup_vector", 1)
    z, x, dt = projected.split([d_inner, d_inner + 2 * groups * d_state, heads], dim=-1)
    x, z = site("conv_in", x), site("gate_in", z)
    u = F.silu(convolved(mixer.conv1d, x, site))
    x, B, C = u.split([d_inner, groups * d_state, groups * d_state], dim=-1)
    dt = F.softplus(dt + mixer.dt_bias).clamp(*mixer.time_step_limit)
    x, dt, B, C = site("ssm_input", x), site("head_dt", dt), site("B", B), site("C", C)
    decay = site("decay", torch.exp(-dt * torch.exp(mixer.A_log)))
    write = torch.zeros(batch, length, d_inner, d_state, dtype=h.dtype)
    group_of = [i * groups // heads for i in range(heads)]
    channels = [slice(i * width, (i + 1) * width) for i in range(heads)]
    dims = [slice(g * d_state, (g + 1) * d_state) for g in group_of]
    for i in range(heads):
        scaled = dt[..., i, None] * x[..., channels[i]]
        write[:, :, channels[i]] = scaled[..., None] * B[..., None, dims[i]]
    write = site("write", write)
    states = recurrence(decay.repeat_interleave(width, 2)[..., None], write, site)
    y = torch.cat(
        [(states[:, :, channels[i]] * C[..., None, dims[i]]).sum(-1) for i in range(heads)], -1
    )
    y, skip = site("y", y), site("skip", mixer.D.repeat_interleave(width) * x)
    gate = site("gate", F.silu(z))
    inner = y + skip
    if isinstance(mixer.norm, torch.nn.Identity):
        inner = inner * gate
    elif getattr(mixer.norm, "norm_before_gate", False):
        inner = grouped_norm(mixer.norm, inner, groups) * gate
    else:
        inner = grouped_norm(mixer.norm, inner * gate, groups)
    return site("mixer_out", mixer.out_proj(inner) * after)


def grouped_norm(norm: Any, x: Tensor, groups: int) -> Tensor:
    parts = [
        part * torch.rsqrt(part.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
        for part in x.chunk(groups, -1)
    ]
    return norm.weight * torch.cat(parts, -1)


def convolved(conv: Any, x: Tensor, site: Site) -> Tensor:
    """A causal depthwise convolution, tap by tap."""
    weight, (batch, length, channels) = conv.weight[:, 0], x.shape
    kernel = weight.shape[1]
    taps = torch.zeros(batch, length, kernel, channels, dtype=x.dtype)
    for t in range(length):
        for j in range(kernel):
            if t - (kernel - 1) + j >= 0:
                taps[:, t, j] = weight[:, j] * x[:, t - (kernel - 1) + j]
    out = site("conv_taps", taps).sum(2)
    return site("conv_out", out if conv.bias is None else out + conv.bias)
