"""One-block recurrent models set by hand, as `planted_mamba`: each counts shifted tokens.

Channels of the stream: one per token, and one that is always on.  The local part passes each token
`shift` positions later; the memory hardly forgets; what is read out goes straight to the logits.
Everything else is zero: the MLPs, and the attention beside the SSD of Falcon-H1.

LFM2 writes a token where it stands, and shifts it when it is read: its register alone shows no
shift.  As its memory ends after four positions, an attention layer above reads what it shifted.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

VOCABULARY = 39
WIDTH = VOCABULARY + 1
FIELDS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": WIDTH,
    "intermediate_size": 8,
    "tie_word_embeddings": True,
}
FORGETS = -6.0  # the logarithm of how fast


def ssd(shift: int) -> Any:
    config = Mamba2Config(
        **{k: FIELDS[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")},
        num_heads=1,
        head_dim=WIDTH,
        expand=1,
        state_size=1,
        n_groups=1,
        use_conv_bias=False,
        tie_word_embeddings=True,
    )
    hf = blank(Mamba2ForCausalLM(config))
    _plant_ssd(hf.backbone.layers[0].mixer, shift)
    return hf


def ssd_beside_attention(shift: int) -> Any:
    config = FalconH1Config(
        **FIELDS,
        mamba_d_ssm=WIDTH,
        mamba_n_heads=1,
        mamba_d_head=WIDTH,
        mamba_n_groups=1,
        mamba_d_state=1,
        mamba_conv_bias=False,
    )
    hf = blank(FalconH1ForCausalLM(config))
    _plant_ssd(hf.model.layers[0].mamba, shift)
    return hf


def _plant_ssd(mixer: Any, shift: int) -> None:
    """Rows of the in-projection: gate, x, B, C, step."""
    mixer.in_proj.weight[:WIDTH, -1] = 1.0
    mixer.in_proj.weight[WIDTH : 2 * WIDTH].copy_(torch.eye(WIDTH))
    mixer.in_proj.weight[2 * WIDTH : 2 * WIDTH + 2, -1] = 1.0
    shift_tokens(mixer.conv1d.weight, slice(0, WIDTH), shift)
    mixer.A_log.fill_(FORGETS)
    mixer.out_proj.weight.copy_(torch.eye(WIDTH))


def induction(shift: int) -> Any:
    """A memory with a row for each token: after A B, that of A holds B.

    What B_t holds of A and x_t of B is written `shift` positions after B; the end reads with C its
    own token's row.
    """
    config = Mamba2Config(
        **{k: FIELDS[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")},
        num_heads=1,
        head_dim=WIDTH,
        expand=1,
        state_size=VOCABULARY,
        n_groups=1,
        use_conv_bias=False,
        tie_word_embeddings=True,
    )
    hf = blank(Mamba2ForCausalLM(config))
    mixer = hf.backbone.layers[0].mixer
    x, B = 2 * WIDTH, 2 * WIDTH + VOCABULARY
    mixer.in_proj.weight[:WIDTH, -1] = 1.0  # the gate
    mixer.in_proj.weight[WIDTH:x].copy_(torch.eye(WIDTH))
    mixer.in_proj.weight[x:B, :VOCABULARY].copy_(torch.eye(VOCABULARY))
    mixer.in_proj.weight[B : B + VOCABULARY, :VOCABULARY].copy_(torch.eye(VOCABULARY))
    taps = mixer.conv1d.weight  # of x, B and C
    taps[:WIDTH, 0, -1 - shift] = 1.0
    taps[WIDTH : WIDTH + VOCABULARY, 0, -2 - shift] = 1.0
    taps[WIDTH + VOCABULARY :, 0, -1] = 1.0
    mixer.A_log.fill_(FORGETS)
    mixer.out_proj.weight.copy_(torch.eye(WIDTH))
    return hf


def delta_rule(shift: int) -> Any:
    """One key for all positions, under which each moves what is held a little to its own token."""
    config = Qwen3_5TextConfig(
        **FIELDS,
        layer_types=["linear_attention"],
        linear_num_key_heads=1,
        linear_num_value_heads=1,
        linear_key_head_dim=1,
        linear_value_head_dim=WIDTH,
        linear_conv_kernel_dim=4,
    )
    hf = blank(Qwen3_5ForCausalLM(config))
    mixer = hf.model.layers[0].linear_attn
    mixer.in_proj_qkv.weight[:2, -1] = 1.0
    mixer.in_proj_qkv.weight[2:].copy_(torch.eye(WIDTH))
    mixer.in_proj_z.weight[:, -1] = 1.0
    mixer.in_proj_b.weight[:, -1] = -1.0  # beta
    shift_tokens(mixer.conv1d.weight, slice(2, 2 + WIDTH), shift)
    mixer.A_log.fill_(FORGETS)
    mixer.out_proj.weight.copy_(torch.eye(WIDTH))
    return hf


def rg_lru(shift: int) -> Any:
    fields = FIELDS | {"lru_width": WIDTH, "block_types": ("recurrent",)}
    hf = blank(RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**fields)))
    mixer = hf.model.layers[0].temporal_block
    mixer.linear_x.weight.copy_(torch.eye(WIDTH))
    mixer.linear_y.bias.fill_(1.0)
    shift_tokens(mixer.conv_1d.weight, slice(0, WIDTH), shift)
    mixer.rg_lru.recurrent_gate_bias.fill_(FORGETS)
    mixer.linear_out.weight.copy_(torch.eye(WIDTH))
    return hf


def rwkv(shift: int) -> Any:
    """The token shift reaches one position back.  A second block, which is needed, adds nothing."""
    config = RwkvConfig(
        **{k: FIELDS[k] for k in ("vocab_size", "hidden_size")},
        num_hidden_layers=2,
        tie_word_embeddings=True,
        rescale_every=0,
    )
    hf = blank(RwkvForCausalLM(config))
    mixer = hf.rwkv.blocks[0].attention
    mixer.time_decay.fill_(FORGETS)
    mixer.time_mix_value.fill_(1.0 - shift)
    mixer.value.weight.copy_(torch.eye(WIDTH))
    mixer.output.weight.copy_(torch.eye(WIDTH))
    return hf


def register() -> Any:
    """LFM2's short convolution: it adds up its four positions."""
    hf = blank(Lfm2ForCausalLM(_lfm2_config(WIDTH, ["conv"])))
    _plant_register(hf, torch.eye(WIDTH))
    hf.model.layers[0].conv.conv.weight.fill_(1.0)
    return hf


def attention_over_register(shift: int) -> Any:
    """The stream has channels for shifted tokens, too, after those of the tokens.

    The convolution puts them there, and a head averages them over all positions.
    """
    width = 2 * WIDTH
    hf = blank(Lfm2ForCausalLM(_lfm2_config(width, ["conv", "full_attention"])))
    own, shifted = torch.arange(VOCABULARY), torch.arange(WIDTH, WIDTH + VOCABULARY)
    copied = torch.zeros(width, width)
    copied[shifted, own] = 1.0
    _plant_register(hf, copied)
    hf.model.layers[0].conv.conv.weight[:, 0, -1 - shift] = 1.0
    head = hf.model.layers[1].self_attn
    head.v_proj.weight[shifted, shifted] = 1.0
    head.out_proj.weight[own, shifted] = 1.0
    return hf


def _lfm2_config(width: int, layers: list[str]) -> Any:
    fields = FIELDS | {"hidden_size": width, "num_hidden_layers": len(layers)}
    del fields["head_dim"]
    return Lfm2Config(**fields, layer_types=layers, conv_L_cache=4, conv_bias=False)


def _plant_register(hf: Any, copied: torch.Tensor) -> None:
    """Rows of the in-projection: B, C, x."""
    mixer, width = hf.model.layers[0].conv, len(copied)
    mixer.in_proj.weight[: 2 * width, VOCABULARY] = 1.0
    mixer.in_proj.weight[2 * width :].copy_(copied)
    mixer.out_proj.weight.copy_(torch.eye(width))


def blank(hf: Any) -> Any:
    """The model with nothing in it but its norms, and embeddings that tell tokens apart."""
    hf.eval().requires_grad_(False)
    for module in hf.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_norm = name == "weight" and "Norm" in type(module).__name__
            gain = 0.0 if "1.0 + self.weight" in _source(module) else 1.0
            parameter.fill_(gain if is_norm else 0.0)
    embedded = hf.get_input_embeddings().weight
    embedded[:, :VOCABULARY] = torch.eye(VOCABULARY)
    embedded[:, VOCABULARY] = 1.0
    hf.get_output_embeddings().weight.copy_(embedded)
    return hf


def _source(module: Any) -> str:
    return inspect.getsource(type(module).forward)


def shift_tokens(weight: torch.Tensor, channels: slice, shift: int) -> None:
    """A convolution's weight (channel, 1, K) that shifts the tokens' channels, and no others.

    The last one of `channels` is that which is always on.
    """
    weight[:, 0, -1] = 1.0
    tokens = slice(channels.start, channels.stop - 1)
    weight[tokens] = 0.0
    weight[tokens, 0, -1 - shift] = 1.0
