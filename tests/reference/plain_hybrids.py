"""Blocks of Mamba-2 and of hybrids, by head and by position, every site's value passed to `site`.

The Hugging Face module lends its weights, norms and rotary tables, and modules of experts.
`site(kind, value)` gives the value that the block goes on with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Site = Callable[[str, Tensor], Tensor]
BLOCKS = {
    "mamba2": "backbone.layers",
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

        ours = plain_block(hf, block, before, remember)
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
        ours = plain_block(hf, block, stream(args, kwargs), changed)
        return (ours, *out[1:]) if isinstance(out, tuple) else ours

    handle = block.register_forward_hook(replaced, with_kwargs=True)
    logits = hf(tokens).logits
    handle.remove()
    return logits


def stream(args: Any, kwargs: Any) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def plain_block(hf: Any, block: Any, h: Tensor, site: Site) -> Tensor:
    """The residual stream after a block."""
    h = site("resid_pre", h)
    return site("resid", h + ssd(block.mixer, block.norm, h, site))


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
    before_it, rows = torch.zeros_like(write[:, 0]), []
    for t in range(length):
        state = decay[:, t].repeat_interleave(width, 1)[..., None] * before_it + write[:, t]
        # the whole value so far; only the current position counts
        so_far = torch.stack([*rows, *[state] * (length - t)], 1)
        before_it = site("state", so_far)[:, t]
        rows.append(before_it)
    states = torch.stack(rows, 1)
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
