"""The value of every site, from plain hooks on the Hugging Face module and formulas on those.

Loops over heads, taps and positions; attention must be `eager`, so that the module returns its
pattern.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from tests.reference import plain_hybrids, plain_recurrences
from tests.reference.hybrid_blocks import AFTER, TYPES, Sites, hybrid_block
from torch import Tensor

MODULES: dict[str, dict[str, str]] = {
    "gpt_neox": {
        "blocks": "gpt_neox.layers",
        "attn": "attention",
        "out": "attention.dense",
        "mlp": "mlp",
        "mlp_norm": "post_attention_layernorm",
        "down": "mlp.dense_4h_to_h",
        "qkv": "attention.query_key_value",
    },
    "gpt2": {
        "blocks": "transformer.h",
        "attn": "attn",
        "out": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp": "mlp",
        "down": "mlp.c_proj",
        "qkv": "attn.c_attn",
    },
    "llama": {
        "blocks": "model.layers",
        "attn": "self_attn",
        "out": "self_attn.o_proj",
        "mlp": "mlp",
        "mlp_norm": "post_attention_layernorm",
        "down": "mlp.down_proj",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
    },
    "mamba": {
        "blocks": "backbone.layers",
        "norm": "norm",
        "mixer": "mixer",
        "in_proj": "mixer.in_proj",
        "x_proj": "mixer.x_proj",
        "out_proj": "mixer.out_proj",
    },
}


def site_values(hf: Any, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Every site's value by name, and the logits."""
    if hf.config.model_type in plain_hybrids.BLOCKS:
        return plain_hybrids.sites_and_logits(hf, tokens)
    if hf.config.model_type in TYPES:
        return hybrid_values(hf, tokens)
    if hf.config.model_type in plain_recurrences.BLOCKS:
        return plain_recurrences.sites_and_logits(hf, tokens)
    names = MODULES[hf.config.model_type]
    blocks = list(hf.get_submodule(names["blocks"]))
    seen: list[dict[str, Any]] = [{} for _ in blocks]
    handles = []
    for block, store in zip(blocks, seen, strict=True):
        parts = {"block": block} | {
            part: block.get_submodule(path) for part, path in names.items() if part != "blocks"
        }
        for part, module in parts.items():

            def remember(
                _m: Any, args: Any, kwargs: Any, out: Any, part: str = part, store: Any = store
            ) -> None:
                store[part] = (args[0] if args else kwargs["hidden_states"], out)

            handles.append(module.register_forward_hook(remember, with_kwargs=True))
    logits = hf(tokens).logits
    for handle in handles:
        handle.remove()
    values = {"embed": seen[0]["block"][0]}
    for layer, (block, store) in enumerate(zip(blocks, seen, strict=True)):
        inside = (
            mamba_layer(block.mixer, store)
            if "mixer" in store
            else attention_layer(hf.config, block, store)
        )
        inside["resid_pre"], inside["resid"] = store["block"]
        values |= {f"{kind}.{layer}": value for kind, value in inside.items()}
    return values, logits


def hybrid_values(hf: Any, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The same of blocks written out; what mixer, MLP and block give is as hooks see it."""
    values: dict[str, Tensor] = {}
    ends = ("linear_attn", "self_attn", "mlp")

    def see(layer: int, name: str) -> Any:
        def remember(_m: Any, args: Any, out: Any) -> None:
            seen[layer][name] = (args, out[0] if isinstance(out, tuple) else out)

        return remember

    blocks = hf.model.layers
    seen: list[dict[str, Any]] = [{} for _ in blocks]
    handles = []
    for layer, block in enumerate(blocks):
        parts = {"block": block} | {n: m for n, m in block.named_children() if n in ends}
        handles += [m.register_forward_hook(see(layer, name)) for name, m in parts.items()]
    logits = hf(tokens).logits
    for handle in handles:
        handle.remove()
    for layer, store in enumerate(seen):
        sites, h = Sites(), store["block"][0][0]
        hybrid_block(hf, layer, h, sites)
        mixed = "attn_out" if "attn_out" in sites.values else "mixer_out"
        outs = {"resid": "block"}
        if AFTER not in dict(blocks[layer].named_children()):
            mixer = "linear_attn" if "linear_attn" in store else "self_attn"
            outs |= {mixed: mixer, "mlp_out": "mlp"}
        for kind, name in outs.items():
            torch.testing.assert_close(sites.values[kind], store[name][1], atol=1e-5, rtol=1e-4)
        values |= {f"{kind}.{layer}": value for kind, value in sites.values.items()}
    return values | {"embed": seen[0]["block"][0][0]}, logits


def attention_layer(config: Any, block: Any, store: dict[str, Any]) -> dict[str, Tensor]:
    """The sites of one Transformer block."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", heads)
    h = store["block"][0]
    z = store["out"][0].unflatten(-1, (heads, -1))
    d_head = z.shape[-1]
    if "q" in store:
        q, k, v = (store[part][1].unflatten(-1, (-1, d_head)) for part in "qkv")
    elif config.model_type == "gpt2":  # [all queries, all keys, all values]
        q, k, v = store["qkv"][1].unflatten(-1, (3, heads, d_head)).unbind(-3)
    else:  # [query, key, value] of head 0, of head 1, ...
        q, k, v = store["qkv"][1].unflatten(-1, (heads, 3, d_head)).unbind(-2)
    out = block.get_submodule(MODULES[config.model_type]["out"])
    matrix = out.weight if config.model_type == "gpt2" else out.weight.T  # (head * d_head, d_model)
    rows = [z[:, :, i] @ matrix[i * d_head : (i + 1) * d_head] for i in range(heads)]
    attn_out, pattern = store["attn"][1]
    sites = {
        "query_in": torch.stack([h] * heads, 2),
        "key_in": torch.stack([h] * kv_heads, 2),
        "value_in": torch.stack([h] * kv_heads, 2),
        "query": q,
        "key": k,
        "value": v,
        "pattern": pattern,
        "z": z,
        "head_out": torch.stack(rows, 2),
        "attn_out": attn_out,
        "mlp_in": store["mlp_norm"][0],
        "mlp_hidden": store["down"][0],
        "mlp_out": store["mlp"][1],
    }
    if not getattr(config, "use_parallel_residual", False):
        sites["resid_mid"] = store["mlp_norm"][0]
    return sites


def mamba_layer(mixer: Any, store: dict[str, Any]) -> dict[str, Tensor]:
    """The sites of one Mamba block."""
    conv_in, gate_in = store["in_proj"][1].chunk(2, dim=-1)
    batch, length, d_inner = conv_in.shape
    weight, bias = mixer.conv1d.weight[:, 0], mixer.conv1d.bias
    kernel, d_state = weight.shape[1], mixer.A_log.shape[1]
    taps = torch.zeros(batch, length, kernel, d_inner, dtype=conv_in.dtype)
    for t in range(length):
        for j in range(kernel):
            if t - (kernel - 1) + j >= 0:
                taps[:, t, j] = weight[:, j] * conv_in[:, t - (kernel - 1) + j]
    conv_out = F.conv1d(
        conv_in.transpose(1, 2), mixer.conv1d.weight, bias, padding=kernel - 1, groups=d_inner
    )
    u = store["x_proj"][0]
    dt_low, B, C = store["x_proj"][1].split([mixer.time_step_rank, d_state, d_state], dim=-1)
    dt = F.softplus(mixer.dt_proj(dt_low))
    parts = recurrence(u, dt, -torch.exp(mixer.A_log), B, C)
    skip, gate = mixer.D * u, F.silu(gate_in)
    torch.testing.assert_close(
        (parts["y"] + skip) * gate, store["out_proj"][0], atol=1e-5, rtol=1e-4
    )
    return {
        "mixer_in": store["norm"][0],
        "conv_in": conv_in,
        "gate_in": gate_in,
        "conv_taps": taps,
        "conv_out": conv_out.transpose(1, 2)[:, :length],
        "ssm_input": u,
        "dt": dt,
        "B": B,
        "C": C,
        **parts,
        "skip": skip,
        "gate": gate,
        "mixer_out": store["mixer"][1],
    }


def recurrence(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    change: dict[tuple[str, int], Any] | None = None,
) -> dict[str, Tensor]:
    """A_bar, B_bar, write, state, y by position; `change[kind, position]` maps the value there."""
    rows: dict[str, list[Tensor]] = {kind: [] for kind in ("A_bar", "B_bar", "write", "state", "y")}

    def put(kind: str, t: int, value: Tensor) -> Tensor:
        rows[kind].append((change or {}).get((kind, t), lambda v: v)(value))
        return rows[kind][-1]

    state = torch.zeros(u.shape[0], *A.shape, dtype=u.dtype)
    for t in range(u.shape[1]):
        A_bar = put("A_bar", t, torch.exp(dt[:, t, :, None] * A))
        B_bar = put("B_bar", t, dt[:, t, :, None] * B[:, t, None])
        state = put("state", t, A_bar * state + put("write", t, B_bar * u[:, t, :, None]))
        put("y", t, (state * C[:, t, None]).sum(-1))
    return {kind: torch.stack(values, 1) for kind, values in rows.items()}
