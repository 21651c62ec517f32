"""What stays in float32 inside a model in half precision, and that its modules work with it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tests.models.helpers import relative
from tests.reference import tiny_models as tiny
from transformers import LlamaConfig, PreTrainedModel

import homolog
from homolog.models.float32 import cast

pytestmark = pytest.mark.usefixtures("one_thread")

HALF = [torch.bfloat16, torch.float16]
TOKENS = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(0))
KEPT = {
    "mamba": (tiny.tiny_mamba, {"A_log", "D"}),
    "mamba2": (tiny.tiny_mamba2, {"A_log", "D", "dt_bias"}),
    "falcon_h1": (tiny.tiny_falcon_h1, {"A_log", "D", "dt_bias"}),
    "zamba": (tiny.tiny_zamba, {"A_log", "D"}),
    "zamba2": (tiny.tiny_zamba2, {"A_log", "D", "dt_bias"}),
    "rwkv": (tiny.tiny_rwkv, {"time_decay", "time_first"}),
    "recurrent_gemma": (tiny.tiny_recurrent_gemma, {"recurrent_param"}),
}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("case", list(KEPT))
def test_decays_are_read_in_float32_and_the_forward_takes_them(case, dtype, tmp_path):
    build, names = KEPT[case]
    hf = build()
    with torch.no_grad():
        for name, p in hf.named_parameters():
            if name.rpartition(".")[2] in names:
                p.add_(0.0039 * torch.rand_like(p))  # less than half a step of bfloat16 at 1
    hf.save_pretrained(tmp_path)
    model = homolog.load(tmp_path, dtype=dtype)
    stored = dict(hf.named_parameters())
    for name, p in model.hf.named_parameters():
        kept = name.rpartition(".")[2] in names
        assert p.dtype == (torch.float32 if kept else dtype), name
        assert torch.equal(p, stored[name] if kept else stored[name].to(dtype)), name
    assert {
        name.rpartition(".")[2]
        for name, p in model.hf.named_parameters()
        if p.dtype == torch.float32
    } == names

    # the same weights, the rounded ones too
    exact = type(model)("exact", copy.deepcopy(model.hf).double())
    theirs, ours = exact.run(TOKENS), model.run(TOKENS)
    # rounding of a dozen products
    assert relative(ours.logits.double(), theirs.logits) < 30 * torch.finfo(dtype).eps


def test_a_log_of_a_mamba_is_not_rounded_to_bfloat16_first(tmp_path):
    hf = tiny.tiny_mamba()
    with torch.no_grad():
        hf.backbone.layers[0].mixer.A_log[0, 0] = 1.0039
    hf.save_pretrained(tmp_path)
    model = homolog.load(tmp_path, dtype=torch.bfloat16)
    # -2.72890, not -e = -2.71828
    assert model.mixers(0)[0].A[0, 0].item() == pytest.approx(-math.exp(1.0039), abs=1e-6)


@pytest.mark.parametrize("dtype", HALF)
def test_the_zoo_and_random_weights_keep_them_too(dtype, tmp_path):
    for name in ("zoo:mamba-s0", "zoo:mamba-random"):
        wide, model = homolog.load(name), homolog.load(name, dtype=dtype)
        mixers = zip(model.mixers(), wide.mixers(), strict=True)
        assert all(torch.equal(ours.A, theirs.A) for ours, theirs in mixers)
        assert model.hf.backbone.layers[0].mixer.in_proj.weight.dtype == dtype
    tiny.tiny_rwkv().config.save_pretrained(tmp_path)
    wide, model = (homolog.load(tmp_path, random=True, dtype=t) for t in (torch.float32, dtype))
    decay = "rwkv.blocks.1.attention.time_decay"
    assert torch.equal(model.hf.get_parameter(decay), wide.hf.get_parameter(decay))


class Keeping(PreTrainedModel):
    """A module of which transformers keeps a part in float32."""

    config_class = LlamaConfig
    _keep_in_fp32_modules_strict = ("gate",)

    def __init__(self) -> None:
        super().__init__(LlamaConfig(vocab_size=20, hidden_size=4, num_attention_heads=2))
        self.gate, self.other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.post_init()


def test_what_transformers_keeps_is_kept():
    hf = Keeping()
    cast(hf, torch.bfloat16)
    assert (hf.gate.weight.dtype, hf.other.weight.dtype) == (torch.float32, torch.bfloat16)
    cast(hf, torch.float64)
    assert {p.dtype for p in hf.parameters()} == {torch.float64}
