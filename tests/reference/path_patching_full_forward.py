"""Path patching the slow way, without homolog: one full forward pass per sender.

The models are unmodified Hugging Face modules. A path patch asks what one component (the sender)
tells the logits directly or through one receiver. The sender's value is taken from a run on corrupt
prompts, every other component of its kind is held at its value in the run on the clean prompts, and
all that is not held (norms, MLPs, gates, convolutions, D-skips, the LM head) is recomputed.

`clean` and `corrupt` are token ids (prompt, position), int64; "last" is the last position.  Logits
are returned at the last position only, in the model's dtype.  Nothing here is fast and nothing is
clever: a patched pass is a table of overrides, and the pass starts from the tokens.  Circuits after
[Wang 2025], section on induction, with two differences from its released code: patches never
accumulate, and a write is patched with the decay of its own position.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# ------------------------------------------------------------------------------------------------
# GPT-NeoX


def gpt_neox_forward(
    hf,
    tokens: Tensor,
    edit: Callable[[int, Tensor], Tensor] | None = None,
    edit_qkv: tuple | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits at the last position, z and the fused projections of every layer.

    Logits (prompt, vocabulary); z (prompt, position, head, d_head) and the projections (prompt,
    position, head, 3 * d_head: query, key, value before rotary) as they are before an edit.

    edit(layer, z)              returns the z that goes on into the layer's output matrix
    edit_qkv (layer, function)  function(qkv) returns the fused projections that this layer's
                                attention goes on with
    """
    heads, handles, zs, qkvs = hf.config.num_attention_heads, [], [], []

    def watch(layer: int, attention) -> None:
        def before_dense(_module, args):
            (flat,) = args
            z = flat.unflatten(-1, (heads, -1))
            zs.append(z)
            return (flat if edit is None else edit(layer, z).flatten(-2),)

        def after_qkv(_module, _args, out):
            qkv = out.unflatten(-1, (heads, -1))
            qkvs.append(qkv)
            edited = edit_qkv is not None and edit_qkv[0] == layer
            return edit_qkv[1](qkv).flatten(-2) if edited else out

        handles.append(attention.dense.register_forward_pre_hook(before_dense))
        handles.append(attention.query_key_value.register_forward_hook(after_qkv))

    for layer, block in enumerate(hf.gpt_neox.layers):
        watch(layer, block.attention)
    try:
        with torch.no_grad():
            logits = hf(tokens, use_cache=False).logits[:, -1]
    finally:
        for handle in handles:
            handle.remove()
    return logits, zs, qkvs


def _patched_last_z(
    hf, clean: Tensor, z_clean: list[Tensor], layer: int, head: int, value: Tensor
) -> Tensor:
    """Logits when z of one head at the last position is `value` (prompt, d_head), others clean."""

    def edit(at: int, z: Tensor) -> Tensor:
        z = z.clone()
        z[:, -1] = z_clean[at][:, -1]
        if at == layer:
            z[:, -1, head] = value
        return z

    return gpt_neox_forward(hf, clean, edit)[0]


def head_to_logits(hf, clean: Tensor, corrupt: Tensor) -> Tensor:
    """Every head to the logits: (layer, head, prompt, vocabulary).

    Sender      z of head (layer, head) at the last position, from the corrupt run
    Held        z of every other head at the last position, clean
    Recomputed  the MLPs and norms at the last position; earlier positions do not change
    """
    _, z_clean, _ = gpt_neox_forward(hf, clean)
    _, z_corrupt, _ = gpt_neox_forward(hf, corrupt)
    rows = []
    for layer, z in enumerate(z_corrupt):
        values = z[:, -1].unbind(1)
        logits = [_patched_last_z(hf, clean, z_clean, layer, h, v) for h, v in enumerate(values)]
        rows.append(torch.stack(logits))
    return torch.stack(rows)


def head_to_head_to_logits(
    hf,
    clean: Tensor,
    corrupt: Tensor,
    receiver: tuple[int, int],
    sender_positions: Tensor,
    reads: tuple[str, ...] = ("q", "k", "v"),
) -> Tensor:
    """Every head of a layer below the receiver (layer, head), through the receiver, to the logits.

    Logits (sender's layer, sender's head, prompt, vocabulary).  Two passes per sender.
    1.  Sender      z of head (layer, head) at `sender_positions` (prompt,), one position per
                    prompt, corrupt
        Held        z of every other head of every layer below the receiver's, at every position,
                    clean.  So only the residual stream at the sender's position changes.  (The
                    released code holds the heads at the sender's position only: there, heads
                    between the two layers at later positions read the changed residual and pass it
                    on.  Here they do not: the path is sender, residual and MLPs, receiver.)
        Recomputed  the MLPs at the sender's position, and what the receiver reads, as far as
                    `reads` names it: its queries ("q"), keys ("k") and values ("v"); those not
                    named are clean
        Taken       the receiver's z at the last position
    2.  As in `head_to_logits`: that z at the last position, z of every other head there clean, MLPs
        recomputed.
    """
    _, z_clean, qkv_clean = gpt_neox_forward(hf, clean)
    _, z_corrupt, _ = gpt_neox_forward(hf, corrupt)
    target, receiving_head = receiver
    prompts, d_head = torch.arange(len(clean)), z_clean[0].shape[-1]

    def received(layer: int, head: int) -> Tensor:
        def edit(at: int, z: Tensor) -> Tensor:
            if at >= target:
                return z  # nothing that the receiver reads
            z = z_clean[at].clone()
            if at == layer:
                z[prompts, sender_positions, head] = z_corrupt[at][prompts, sender_positions, head]
            return z

        def read(qkv: Tensor) -> Tensor:
            qkv = qkv.clone()
            for i, name in enumerate("qkv"):
                part = slice(i * d_head, (i + 1) * d_head)
                if name not in reads:
                    qkv[..., part] = qkv_clean[target][..., part]
            return qkv

        _, zs, _ = gpt_neox_forward(hf, clean, edit, (target, read))
        return zs[target][:, -1, receiving_head]

    rows = []
    for layer in range(target):
        values = [received(layer, head) for head in range(z_clean[layer].shape[2])]
        patched = [_patched_last_z(hf, clean, z_clean, target, receiving_head, v) for v in values]
        rows.append(torch.stack(patched))
    return torch.stack(rows)


# ------------------------------------------------------------------------------------------------
# Mamba-1

Key = tuple[str, int]  # (quantity, layer), for example ("state", 17)
Record = dict[Key, Tensor]  # (prompt, position, ...)
# Where to override (prompt, position), bool; and with what: the quantity at all positions, read
# where the mask is true.
Overrides = dict[Key, tuple[Tensor, Tensor]]


def mamba_forward(hf, tokens: Tensor, overrides: Overrides | None = None) -> tuple[Tensor, Record]:
    """Logits (prompt, position, vocabulary), and every quantity of every layer after its override.

    After (prompt, position), quantities have the axes

        conv_in, gate_in = halves of in_proj(RMSNorm(h))                       (d_inner)
        conv_out[t]      = bias + sum over j of weight[j] * conv_in[t-(K-1)+j] (d_inner)
        u                = SiLU(conv_out)                                      (d_inner)
        dt', B, C        = x_proj(u)                                           B, C: (d_state)
        dt               = softplus(dt_proj(dt'))                              (d_inner)
        A_bar            = exp(-exp(A_log) * dt)                               (d_inner, d_state)
        write            = dt * B * u                                          (d_inner, d_state)
        state[t]         = A_bar[t] * state[t-1] + write[t]                    (d_inner, d_state)
        y                = sum over d_state of C * state                       (d_inner)
        h               <- h + out_proj((y + D * u) * SiLU(gate_in))

    An override replaces a quantity before anything reads it: what follows is computed from the
    overridden value, and the recurrence goes on from an overridden state.  All in the model's
    dtype.
    """
    overrides, record = overrides or {}, {}

    def put(name: str, layer: int, value: Tensor) -> Tensor:
        if (name, layer) in overrides:
            mask, other = overrides[name, layer]
            value = torch.where(mask.reshape(*mask.shape, *[1] * (value.ndim - 2)), other, value)
        record[name, layer] = value
        return value

    with torch.no_grad():
        h = hf.backbone.embeddings(tokens)
        for layer, block in enumerate(hf.backbone.layers):
            mixer = block.mixer
            x, gate = mixer.in_proj(rms_norm(block.norm, h)).chunk(2, dim=-1)
            x = put("conv_in", layer, x)
            gate = put("gate", layer, F.silu(gate))
            u = put("u", layer, F.silu(put("conv_out", layer, convolution(mixer.conv1d, x))))
            sizes = [mixer.dt_proj.in_features, mixer.A_log.shape[1], mixer.A_log.shape[1]]
            dt_low, B, C = mixer.x_proj(u).split(sizes, dim=-1)
            dt = put("dt", layer, F.softplus(mixer.dt_proj(dt_low)))
            B, C = put("B", layer, B), put("C", layer, C)
            A_bar = put("A_bar", layer, torch.exp(-torch.exp(mixer.A_log) * dt[..., None]))
            write = put("write", layer, dt[..., None] * B[:, :, None, :] * u[..., None])
            states = put("state", layer, recurrence(A_bar, write, overrides.get(("state", layer))))
            y = put("y", layer, (C[:, :, None, :] * states).sum(-1))
            h = h + mixer.out_proj((y + mixer.D * u) * gate)
        return hf.lm_head(rms_norm(hf.backbone.norm_f, h)), record


def rms_norm(norm, h: Tensor) -> Tensor:
    return norm.weight * h / torch.sqrt(h.square().mean(-1, keepdim=True) + norm.variance_epsilon)


def convolution(conv1d, x: Tensor) -> Tensor:
    """Causal and depthwise; tap j of K reads the position K-1-j before, zero before the first."""
    kernel = conv1d.weight.shape[-1]
    out = torch.zeros_like(x)
    for t in range(x.shape[1]):
        for j in range(kernel):
            source = t - (kernel - 1) + j
            if source >= 0:
                out[:, t] += conv1d.weight[:, 0, j] * x[:, source]
    return out if conv1d.bias is None else out + conv1d.bias


def recurrence(
    A_bar: Tensor, write: Tensor, override: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """All states, from a zero state; an overridden state is what the next position reads."""
    state, states = torch.zeros_like(write[:, 0]), []
    for t in range(write.shape[1]):
        state = A_bar[:, t] * state + write[:, t]
        if override is not None:
            mask, other = override
            state = torch.where(mask[:, t, None, None], other[:, t], state)
        states.append(state)
    return torch.stack(states, dim=1)


def at(tokens: Tensor, *positions: Tensor | int) -> Tensor:
    """Mask (prompt, position) of positions per prompt; each an int >= 0, or int64 (prompt,)."""
    index = torch.arange(tokens.shape[1])[None]
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for position in positions:
        mask |= index == torch.as_tensor(position).reshape(-1, 1)
    return mask


def _hold_states(hf, clean: Tensor, clean_record: Record, layer: int, state: Tensor) -> Tensor:
    """Logits (prompt, vocabulary) when `layer`'s state at the last position is `state`.

    state (prompt, d_inner, d_state); that of every other layer is clean.  Only the last position
    changes, so earlier conv inputs are clean.
    """
    last = at(clean, clean.shape[1] - 1)
    overrides: Overrides = {}
    for other in range(len(hf.backbone.layers)):
        value = clean_record["state", other]
        held = state[:, None].expand_as(value) if other == layer else value
        overrides["state", other] = (last, held)
    return mamba_forward(hf, clean, overrides)[0][:, -1]


def _enter_last(clean_record: Record, layer: int, state: Tensor) -> Tensor:
    """The state at the last position when `state` enters it: clean decay, clean write."""
    return clean_record["A_bar", layer][:, -1] * state + clean_record["write", layer][:, -1]


def state_to_logits(hf, clean: Tensor, corrupt: Tensor) -> Tensor:
    """Every layer's carried state to the logits: (layer, prompt, vocabulary).

    Sender      the state that enters the last position, from the corrupt run; the state at the last
                position is then A_bar_clean[last] * state_corrupt[last-1] + write_clean[last]
    Held        every other layer's state at the last position, clean
    Recomputed  residual stream, convolution, gate, C and D-skip at the last position
    """
    _, ours = mamba_forward(hf, clean)
    _, theirs = mamba_forward(hf, corrupt)
    layers = range(len(hf.backbone.layers))
    entered = [_enter_last(ours, layer, theirs["state", layer][:, -2]) for layer in layers]
    return torch.stack([_hold_states(hf, clean, ours, layer, entered[layer]) for layer in layers])


def y_to_logits(hf, clean: Tensor, corrupt: Tensor) -> Tensor:
    """Every layer's y (C times state, no D-skip) to the logits: (layer, prompt, vocabulary).

    Sender      y at the last position, from the corrupt run
    Held        every other layer's y at the last position, clean
    Recomputed  residual stream, convolution, gate and D-skip at the last position
    """
    _, ours = mamba_forward(hf, clean)
    _, theirs = mamba_forward(hf, corrupt)
    layers, last = range(len(hf.backbone.layers)), at(clean, clean.shape[1] - 1)
    rows = []
    for sender in layers:
        table = {
            ("y", layer): (last, (theirs if layer == sender else ours)["y", layer])
            for layer in layers
        }
        rows.append(mamba_forward(hf, clean, table)[0][:, -1])
    return torch.stack(rows)


def _patched_write(
    hf, clean: Tensor, ours: Record, layer: int, position: Tensor | int, source: Record
) -> Tensor:
    """Logits when `layer`'s write and decay A_bar at `position` come from `source`.

    The layer's state is rerun to the end with clean decays and writes elsewhere; of the rerun only
    the state at the last position goes on (earlier y stay clean, and with them the later layers'
    conv inputs before the last position); every other layer's state at the last position is clean.
    """
    mask = at(clean, position)
    table = {(name, layer): (mask, source[name, layer]) for name in ("write", "A_bar")}
    _, rerun = mamba_forward(hf, clean, table)
    return _hold_states(hf, clean, ours, layer, rerun["state", layer][:, -1])


def conv_to_write_to_logits(
    hf,
    clean: Tensor,
    corrupt: Tensor,
    layer: int,
    write_position: Tensor,
    input_positions: list[Tensor],
) -> Tensor:
    """Conv inputs through one write of that layer's state to the logits: (prompt, vocabulary).

    Sender      conv_in of `layer` at `input_positions`, each (prompt,), together, from the corrupt
                run
    Receiver    the write at `write_position` (prompt,): B, dt and u at that position see the
                patched inputs, hence the write and the decay A_bar of that one position; C, D-skip
                and every other position's write do not
    Onwards     as in `write_to_logits`
    """
    _, ours = mamba_forward(hf, clean)
    _, theirs = mamba_forward(hf, corrupt)
    inputs = (at(clean, *input_positions), theirs["conv_in", layer])
    _, seen = mamba_forward(hf, clean, {("conv_in", layer): inputs})
    return _patched_write(hf, clean, ours, layer, write_position, seen)


def write_to_logits(hf, clean: Tensor, corrupt: Tensor, layer: int, position: Tensor) -> Tensor:
    """One write of a layer's state to the logits: (prompt, vocabulary).

    Sender      the write at `position` (prompt,) and the decay A_bar of that position, from the
                corrupt run
    Onwards     the layer's state is rerun to the end with clean writes and decays elsewhere; its
                value at the last position goes on, every other layer's state at the last position
                is held clean; convolution, gate, C and D-skip at the last position are recomputed
    """
    _, ours = mamba_forward(hf, clean)
    _, theirs = mamba_forward(hf, corrupt)
    return _patched_write(hf, clean, ours, layer, position, theirs)


def mixer_to_state_to_logits(
    hf, clean: Tensor, corrupt: Tensor, sender: int, receiver: int
) -> Tensor:
    """One layer's y, through the state of a later layer, to the logits: (prompt, vocabulary).

    1.  Sender      y of layer `sender` at all positions except the last, from the corrupt run
        Held        y of the layers between sender and receiver, at all positions, clean
        Recomputed  their in-projections, convolutions, gates and D-skips; the receiver's
                    convolution, dt, B, write and A_bar at all positions except the last
        Taken       the receiver's state that enters the last position
    2.  As in `state_to_logits`: with the clean decay and the clean write of the last position,
        every other layer's state at the last position held clean.
    """
    _, ours = mamba_forward(hf, clean)
    _, theirs = mamba_forward(hf, corrupt)
    last = at(clean, clean.shape[1] - 1)
    table: Overrides = {("y", sender): (~last, theirs["y", sender])}
    for between in range(sender + 1, receiver):
        table["y", between] = (torch.ones_like(last), ours["y", between])
    _, patched = mamba_forward(hf, clean, table)
    entered = _enter_last(ours, receiver, patched["state", receiver][:, -2])
    return _hold_states(hf, clean, ours, receiver, entered)
