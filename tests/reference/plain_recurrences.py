"""Blocks of RecurrentGemma, LFM2, RWKV-4 and xLSTM, head by head, each value through `site`.

`site(kind, value)` gives the value that the block goes on with.  The Hugging Face module lends its
weights and its rotary tables; what it computes is not used, so that float64 stays float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

Site = Callable[[str, Tensor], Tensor]
BLOCKS = {
    "recurrent_gemma": "model.layers",
    "lfm2": "model.layers",
    "lfm2_moe": "model.layers",
    "rwkv": "rwkv.blocks",
    "xlstm": "backbone.blocks",
}


def sites_and_logits(hf: Any, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Every site's value by name, of blocks whose results are the module's; its logits."""
    seen: list[tuple[Tensor, Tensor]] = []
    blocks = hf.get_submodule(BLOCKS[hf.config.model_type])
    handles = [
        block.register_forward_hook(lambda _m, args, out: seen.append((args[0], first(out))))
        for block in blocks
    ]
    logits = hf(tokens, use_cache=False).logits
    for handle in handles:
        handle.remove()
    values = {"embed": embedded(hf, tokens)}
    for layer, (before, after) in enumerate(seen):

        def keep(kind: str, value: Tensor, layer: int = layer) -> Tensor:
            values[f"{kind}.{layer}"] = value
            return value

        stream = values["embed"] if layer == 0 else before
        torch.testing.assert_close(
            plain_block(hf, layer, stream, keep), after, atol=1e-5, rtol=1e-4
        )
    return values, logits


def logits_with(
    hf: Any, tokens: Tensor, layer: int, kind: str, change: Callable[[Tensor], Tensor]
) -> Tensor:
    """Logits of the module with `change` applied to the whole value of a site of that layer.

    For `state`, the change gets all positions, of which only the current one counts.
    """

    def changed(name: str, value: Tensor) -> Tensor:
        return change(value) if name == kind else value

    def replaced(_m: Any, args: Any, out: Any) -> Any:
        h = embedded(hf, tokens) if layer == 0 else args[0]
        ours = plain_block(hf, layer, h, changed)
        return (ours, *out[1:]) if isinstance(out, tuple) else ours

    handle = hf.get_submodule(BLOCKS[hf.config.model_type])[layer].register_forward_hook(replaced)
    logits = hf(tokens, use_cache=False).logits
    handle.remove()
    return logits


def plain_logits(hf: Any, tokens: Tensor) -> Tensor:
    """Logits without the module's own forward, in the dtype of its weights."""
    h = embedded(hf, tokens)
    for layer in range(hf.config.num_hidden_layers):
        h = plain_block(hf, layer, h, lambda _kind, value: value)
    if hf.config.model_type == "rwkv":
        return hf.rwkv.ln_out(h) @ hf.head.weight.T
    if hf.config.model_type == "xlstm":
        logits = rms(hf.backbone.out_norm, h) @ hf.lm_head.weight.T
        return hf.config.output_logit_soft_cap * torch.tanh(
            logits / hf.config.output_logit_soft_cap
        )
    if hf.config.model_type == "recurrent_gemma":
        logits = rms(hf.model.final_norm, h) @ hf.lm_head.weight.T
        return torch.tanh(logits / hf.config.logits_soft_cap) * hf.config.logits_soft_cap
    return rms(hf.model.embedding_norm, h) @ hf.lm_head.weight.T


def embedded(hf: Any, tokens: Tensor) -> Tensor:
    """What the stream begins with."""
    h = hf.get_input_embeddings().weight[tokens]
    if hf.config.model_type == "rwkv":
        return hf.rwkv.blocks[0].pre_ln(h)
    if hf.config.model_type == "recurrent_gemma":  # a factor of bfloat16
        return h * torch.tensor(hf.config.hidden_size**0.5).bfloat16().to(h.dtype)
    return h


def first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def plain_block(hf: Any, layer: int, h: Tensor, site: Site) -> Tensor:
    """The residual stream after a block."""
    block, kind = hf.get_submodule(BLOCKS[hf.config.model_type])[layer], hf.config.model_type
    h = site("resid_pre", h)
    if kind == "rwkv":
        h = site("resid_mid", h + time_mixing(block, h, site))
        return site("resid", h + channel_mixing(block, h, site))
    if kind == "xlstm":
        h = site("resid_mid", h + mlstm(block, h, site))
        normed, mlp = rms(block.norm_ffn, site("mlp_in", h)), block.ffn
        if hf.config.weight_mode == "fused":
            gate, up = mlp.proj_up_gate_z(normed).chunk(2, -1)
        else:
            gate, up = mlp.proj_up_gate(normed), mlp.proj_up(normed)
        hidden = site("mlp_hidden", F.silu(gate) * up)
        return site("resid", h + site("mlp_out", mlp.proj_down(hidden)))
    if kind == "recurrent_gemma":
        module, norm = block.temporal_block, block.temporal_pre_norm
        recurrent, mlp_norm = not hasattr(module, "q_proj"), block.channel_pre_norm
        mixed = rg_lru(module, norm, h, site) if recurrent else None
    else:
        norm, mlp_norm, recurrent = block.operator_norm, block.ffn_norm, hasattr(block, "conv")
        mixed = short_convolution(block.conv, norm, h, site) if recurrent else None
        module = None if recurrent else block.self_attn
    if mixed is None:
        mixed = attention(hf, module, norm, h, site)
    h = site("resid_mid", h + mixed)
    normed = rms(mlp_norm, site("mlp_in", h))
    mlp = block.mlp_block if kind == "recurrent_gemma" else block.feed_forward
    if hasattr(mlp, "experts"):
        return site("resid", h + site("mlp_out", mlp(normed)))
    if kind == "recurrent_gemma":
        hidden, down = mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed), mlp.down_proj
    else:
        hidden, down = F.silu(mlp.w1(normed)) * mlp.w3(normed), mlp.w2
    return site("resid", h + site("mlp_out", down(site("mlp_hidden", hidden))))


def rms(norm: Any, x: Tensor) -> Tensor:
    """Over the root mean square, times the weight, or 1 + weight in Gemma's; plus a bias."""
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    weight = norm.weight + 1 if "Gemma" in type(norm).__name__ else norm.weight
    scaled = weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return scaled if getattr(norm, "bias", None) is None else scaled + norm.bias


def recurrence(decay: Tensor | None, write: Tensor, site: Site) -> Tensor:
    """All states (batch, position, channel, state); without a decay, places shift by one."""
    before, rows = torch.zeros_like(write[:, 0]), []
    for t in range(write.shape[1]):
        kept = F.pad(before[..., 1:], (0, 1)) if decay is None else decay[:, t] * before
        # all positions so far; only the current one counts
        so_far = torch.stack([*rows, *[kept + write[:, t]] * (write.shape[1] - t)], 1)
        before = site("state", so_far)[:, t]
        rows.append(before)
    return torch.stack(rows, 1)


def rg_lru(module: Any, norm: Any, h: Tensor, site: Site) -> Tensor:
    unit = module.rg_lru
    normed = rms(norm, site("mixer_in", h))
    x, z = site("conv_in", module.linear_x(normed)), site("gate_in", module.linear_y(normed))
    kernel, length = module.conv_1d.weight.shape[-1], h.shape[1]
    taps = torch.zeros(h.shape[0], length, kernel, x.shape[-1], dtype=h.dtype)
    for t in range(length):
        for j in range(kernel):
            if t - (kernel - 1) + j >= 0:
                taps[:, t, j] = module.conv_1d.weight[:, 0, j] * x[:, t - (kernel - 1) + j]
    x = site("conv_out", site("conv_taps", taps).sum(2) + module.conv_1d.bias)

    def gate(weight: Tensor, bias: Tensor) -> Tensor:
        width = weight.shape[-1]
        parts = [
            x[..., i * width : (i + 1) * width] @ weight[i] + bias[i] for i in range(len(weight))
        ]
        return torch.sigmoid(torch.cat(parts, -1))

    r = site("recurrence_gate", gate(unit.recurrent_gate_weight, unit.recurrent_gate_bias))
    i = site("input_gate", gate(unit.input_gate_weight, unit.input_gate_bias))
    a = torch.exp(-8 * r * torch.log(1 + torch.exp(unit.recurrent_param)))
    root = torch.sqrt(1 - a**2)
    root = torch.cat([torch.ones_like(root[:, :1]), root[:, 1:]], 1)
    B_bar = site("B_bar", (root * i)[..., None])
    write = site("write", B_bar * x[..., None])
    states = recurrence(site("A_bar", a[..., None]), write, site)
    y = site("y", states[..., 0])
    return site("mixer_out", module.linear_out(y * site("gate", module.act_fn(z))))


def short_convolution(module: Any, norm: Any, h: Tensor, site: Site) -> Tensor:
    B, C, x = module.in_proj(rms(norm, site("mixer_in", h))).chunk(3, -1)
    x = site("value", x[..., None, :])[..., 0, :]
    B, C = site("input_gate", B), site("gate", C)
    x, weight = site("conv_in", B * x), module.conv.weight[:, 0]
    write = torch.zeros(*x.shape, weight.shape[-1], dtype=x.dtype)
    write[..., -1] = x
    y = (weight * recurrence(None, site("write", write), site)).sum(-1)
    y = site("y", y if module.conv.bias is None else y + module.conv.bias)
    return site("mixer_out", module.out_proj(C * y))


def time_mixing(block: Any, h: Tensor, site: Site) -> Tensor:
    part = block.attention
    x = site("mixer_normed", block.ln1(site("mixer_in", h)))
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    before, x = site("shift_taps", torch.stack([before, x], 2)).unbind(2)
    mixes = (part.time_mix_key, part.time_mix_value, part.time_mix_receptance)
    kx, vx, rx = (mix * x + (1 - mix) * before for mix in mixes)
    k = site("key", part.key(kx)[..., None, :])[..., 0, :].double()
    v = site("value", part.value(vx)[..., None, :])[..., 0, :].double()
    r = site("gate_in", part.receptance(rx))
    write = site("write", torch.stack([k.exp() * v, k.exp()], -1))
    w, u = -torch.exp(part.time_decay.double()), part.time_first.double()
    states = recurrence(torch.exp(w)[:, None].expand_as(write), write, site)
    rows = []
    for t in range(h.shape[1]):
        found = states[:, t - 1] if t else torch.zeros_like(states[:, 0])
        bonus = torch.exp(u + k[:, t])
        rows.append((found[..., 0] + bonus * v[:, t]) / (found[..., 1] + bonus))
    y = site("y", torch.stack(rows, 1).to(h.dtype))
    return site("mixer_out", part.output(site("gate", torch.sigmoid(r)) * y))


def channel_mixing(block: Any, h: Tensor, site: Site) -> Tensor:
    part = block.feed_forward
    x = site("mlp_normed", block.ln2(site("mlp_in", h)))
    before = site("mlp_shifted", torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1))
    kx, rx = (m * x + (1 - m) * before for m in (part.time_mix_key, part.time_mix_receptance))
    gate = site("mlp_gate", torch.sigmoid(part.receptance(rx)))
    hidden = site("mlp_hidden", torch.relu(part.key(kx)) ** 2)
    return site("mlp_out", gate * part.value(hidden))


def mlstm(block: Any, h: Tensor, site: Site) -> Tensor:
    part, x = block.mlstm_layer, rms(block.norm_mlstm, site("mixer_in", h))
    heads, cap = part.config.num_heads, part.config.gate_soft_cap
    if part.config.weight_mode == "fused":
        q, k, v, o = part.qkv_opreact(x).split([part.qk_dim] * 2 + [part.v_dim] * 2, -1)
        i, f = part.ifgate_preact(x).chunk(2, -1)
    else:
        q, k, v, o = (m(x) for m in (part.q, part.k, part.v, part.ogate_preact))
        i, f = part.igate_preact(x), part.fgate_preact(x)
    q, k, v = (
        site(name, y.unflatten(-1, (heads, -1)))
        for name, y in (("query", q), ("key", k), ("value", v))
    )
    scale = site("write_scale", torch.exp(cap * torch.tanh(i / cap)))
    decay, o = site("decay", torch.sigmoid(cap * torch.tanh(f / cap))), site("gate_in", o)
    write, by_row = [], []
    for n in range(heads):
        rows = torch.cat([v[:, :, n], torch.ones_like(v[:, :, n, :1])], -1)
        write.append(scale[..., n, None, None] * rows[..., None] * k[:, :, n, None])
        by_row.append(decay[..., n, None, None].expand_as(write[-1]))
    states = recurrence(torch.cat(by_row, 2), site("write", torch.cat(write, 2)), site)
    ys = []
    for n, state in enumerate(states.chunk(heads, 2)):
        read = (state * q[:, :, n, None]).sum(-1) / q.shape[-1] ** 0.5
        ys.append(read[..., :-1] / read[..., -1:].abs().clamp(min=1))
    y, norm, normed = site("y", torch.cat(ys, -1)), part.multihead_norm, []
    for one in y.chunk(heads, -1):
        centred = one - one.mean(-1, keepdim=True)
        normed.append(centred / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt())
    out = torch.cat(normed, -1) * norm.weight
    out = out if norm.bias is None else out + norm.bias
    return site("mixer_out", part.out_proj(site("gate", torch.sigmoid(o)) * out))


def attention(hf: Any, module: Any, norm: Any, h: Tensor, site: Site) -> Tensor:
    heads, kv_heads = hf.config.num_attention_heads, hf.config.num_key_value_heads
    window = getattr(module, "sliding_window", h.shape[1])
    maps = {"query": module.q_proj, "key": module.k_proj, "value": module.v_proj}
    norms = {}
    if hasattr(module, "q_layernorm"):
        norms = {"query": module.q_layernorm, "key": module.k_layernorm}
    reads: dict[str, Tensor] = {}
    for name, projection in maps.items():
        count = heads if name == "query" else kv_heads
        stream = site(f"{name}_in", torch.stack([h] * count, 2))
        each = [
            projection(rms(norm, stream[:, :, i])).unflatten(-1, (count, -1))[:, :, i]
            for i in range(count)
        ]
        each = [rms(norms[name], x) if name in norms else x for x in each]
        reads[name] = site(name, torch.stack(each, 2))
    tables = {
        "recurrent_gemma": getattr(module, "rotary_emb", None),
        "lfm2": getattr(hf.model, "rotary_emb", None),
        "lfm2_moe": getattr(hf.model, "pos_emb", None),
    }
    cos, sin = tables[hf.config.model_type](h, position_ids=torch.arange(h.shape[1])[None])
    q, k = apply_rotary_pos_emb(reads["query"], reads["key"], cos, sin, unsqueeze_dim=2)
    pattern = torch.zeros(h.shape[0], heads, h.shape[1], h.shape[1], dtype=h.dtype)
    for i in range(heads):
        for t in range(h.shape[1]):
            begin = max(0, t + 1 - window)
            scores = (q[:, t, None, i] * k[:, begin : t + 1, i * kv_heads // heads]).sum(-1)
            pattern[:, i, t, begin : t + 1] = (scores / q.shape[-1] ** 0.5).softmax(-1)
    pattern, v = site("pattern", pattern), reads["value"]
    z = [pattern[:, i] @ v[:, :, i * kv_heads // heads] for i in range(heads)]
    z = site("z", torch.stack(z, 2))
    out = module.o_proj if hasattr(module, "o_proj") else module.out_proj
    matrix = out.weight.T.unflatten(0, (heads, -1))
    rows = site("head_out", torch.stack([z[:, :, i] @ matrix[i] for i in range(heads)], 2))
    return site("attn_out", rows.sum(2) if out.bias is None else rows.sum(2) + out.bias)
