"""An architecture from outside the package: blocks that read the mean of the positions so far."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from homolog.models import Blockwise, register


class AveragingConfig(PreTrainedConfig):
    model_type = "averaging"
    vocab_size, hidden_size, num_hidden_layers = 97, 16, 3


class AveragingForCausalLM(PreTrainedModel):
    config_class = AveragingConfig

    def __init__(self, config):
        super().__init__(config)
        width, n_blocks = config.hidden_size, config.num_hidden_layers
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, width)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(n_blocks))
        self.lm_head = torch.nn.Linear(width, config.vocab_size, bias=False)
        self.post_init()


class Averaging(Blockwise):
    architecture = "averaging"
    site_kinds = ("resid_pre", "average", "mixer_out", "resid")

    def blocks(self):
        return self.hf.blocks

    def block(self, layer, h, context, taps):
        n_read = torch.arange(1, h.shape[1] + 1, device=h.device)[:, None]
        average = taps("average", layer, h.cumsum(1) / n_read)
        return h + taps("mixer_out", layer, self.blocks()[layer](average))

    def final_norm(self, h):
        return h


AutoConfig.register("averaging", AveragingConfig)
AutoModelForCausalLM.register(AveragingConfig, AveragingForCausalLM)
register(Averaging, {"average": ("batch", "position", "d_model")})
