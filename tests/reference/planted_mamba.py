"""A one-block Mamba set by hand: it counts shifted tokens, and predicts each by its count.

d_model = d_inner = vocabulary + 1: one channel a token, and one that is always on.  The convolution
passes each token `shift` positions later; the state hardly decays; what is in it goes straight to
the logits.  So what position t holds enters the state at t + shift, and nowhere else.
"""

import torch
from transformers import MambaConfig, MambaForCausalLM


def summing_mamba(vocabulary: int, shift: int) -> MambaForCausalLM:
    width = vocabulary + 1
    config = MambaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=1,
        state_size=1,
        expand=1,
        time_step_rank=1,
        conv_kernel=4,
        use_conv_bias=False,
        use_cache=False,
        tie_word_embeddings=True,
    )
    hf = MambaForCausalLM(config).eval().requires_grad_(False)
    mixer, eye = hf.backbone.layers[0].mixer, torch.eye(width)
    one_hot = torch.cat([torch.eye(vocabulary), torch.ones(vocabulary, 1)], 1)
    hf.backbone.embeddings.weight.copy_(one_hot)
    on = torch.zeros(width, width)
    on[:, -1] = 1.0  # every gate reads the channel that is always on
    mixer.in_proj.weight.copy_(torch.cat([eye, on]))
    mixer.conv1d.weight.zero_()
    mixer.conv1d.weight[:, 0, -1 - shift] = 1.0
    mixer.conv1d.weight[-1, 0] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    mixer.x_proj.weight.zero_()
    mixer.x_proj.weight[1:, -1] = 1.0  # B and C: constant; dt: its bias alone
    mixer.dt_proj.weight.zero_()
    mixer.dt_proj.bias.fill_(0.0)
    mixer.A_log.fill_(-6.0)
    mixer.D.zero_()
    mixer.out_proj.weight.copy_(eye)
    for norm in (hf.backbone.layers[0].norm, hf.backbone.norm_f):
        norm.weight.fill_(1.0)
    return hf
