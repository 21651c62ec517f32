"""Gradients of a run by a value that an edit brings, against finite differences in float64."""

import pytest
import torch
from tests.models.helpers import tiny

from homolog.models import Add, Replace

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = torch.randint(0, 97, (2, 5), generator=torch.Generator().manual_seed(2))
EVERYWHERE = ("embed", "resid_pre.1", "resid.1")
ATTENTION = (
    "query_in.1",
    "key_in.1",
    "value_in.1",
    "query.1",
    "key.1",
    "value.1",
    "pattern.1",
    "z.1",
    "head_out.1",
    "attn_out.1",
    "mlp_in.1",
    "mlp_hidden.1",
    "mlp_out.1",
)
MIXER = (
    "mixer_in.1",
    "conv_in.1",
    "gate_in.1",
    "conv_taps.1",
    "conv_out.1",
    "ssm_input.1",
    "dt.1",
    "B.1",
    "C.1",
    "A_bar.1",
    "B_bar.1",
    "write.1",
    "state.1",
    "y.1",
    "skip.1",
    "gate.1",
    "mixer_out.1",
)
MAMBA_1 = ("dt.1", "A_bar.1", "B_bar.1")  # that Mamba-2 does not have
DELTA_RULE = (
    "mixer_in.1",
    "conv_in.1",
    "gate_in.1",
    "conv_taps.1",
    "query.1",
    "key.1",
    "value.1",
    "beta.1",
    "decay.1",
    "write.1",
    "state.1",
    "y.1",
    "gate.1",
)
SITES = {
    "neox-parallel": EVERYWHERE + ATTENTION,
    "gpt2": ("embed", "query_in.1", "pattern.0", "resid_mid.1"),
    "llama": ("embed", "query_in.1", "key_in.1", "value.0", "pattern.0", "mlp_hidden.1"),
    "mamba": EVERYWHERE + MIXER,
    "mamba2": ("embed", *(site for site in MIXER if site not in MAMBA_1), "head_dt.1", "decay.1"),
    "qwen3_next": DELTA_RULE,
    "kimi_linear": ("key.1", "key_decay.1", "write.1", "state.1"),
    "kimi_linear-attention": ("query_in.1", "key_in.1", "value_in.1"),
    "olmo_hybrid-attention": ("decay.0", "query_in.1"),
    "qwen3_next-attention": ("query_in.1", "head_gate.1", "z.1"),
    "recurrent-gemma": ("conv_in.1", "recurrence_gate.1", "A_bar.1", "write.1", "state.1"),
    "lfm2": ("value.1", "input_gate.1", "write.1", "state.1"),
    "xlstm": ("query.1", "write_scale.1", "decay.1", "write.1", "state.1"),
    "rwkv": ("mixer_normed.1", "shift_taps.1", "key.1", "write.1", "state.1", "mlp_normed.1"),
}


def agrees(function, value):
    """Autograd along random directions against central differences."""
    torch.manual_seed(0)
    return torch.autograd.gradcheck(
        function, value.requires_grad_(), fast_mode=True, eps=1e-6, atol=1e-7, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("case", "site"), [(case, site) for case, sites in SITES.items() for site in sites]
)
def test_gradients_through_a_run_equal_finite_differences(case, site):
    model = tiny(case, torch.float64)
    shape = model.run(SHORT, capture=[f"{site}@2"])[f"{site}@2"].shape
    value = 0.1 * torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    weights = torch.randn(2, 5, 97, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def summary(value):
        return (
            model.run(SHORT, edits=[Add(f"{site}@2", value)]).logits.softmax(-1) * weights
        ).sum()

    assert agrees(summary, value)


@pytest.mark.parametrize("read", ["state.1", "state.1@3", "write.1@3", "A_bar.1", "y.1@4"])
def test_gradients_reach_what_a_run_reads(read):
    """Also of states, which the compiled scan gives out only where they are asked for."""
    model = tiny("mamba", torch.float64)
    value = torch.zeros(2, 80, dtype=torch.float64)

    def read_sum(value):
        run = model.run(
            SHORT, edits=[Add("conv_in.1@1", value), Add("conv_in.1@2", 2 * value)], capture=[read]
        )
        return (run[read] ** 2).sum() + run.logits.softmax(-1)[:, :, 5].sum()

    assert agrees(read_sum, value)


def test_gradients_pass_through_an_edited_recurrence_to_earlier_positions():
    """The positions before the first edited one run in the scan, the others one by one."""
    model = tiny("mamba", torch.float64)
    value = torch.zeros(2, 80, dtype=torch.float64)

    def late(value):
        edits = [
            Add("conv_in.1@0", value),
            Add("state.1@3", value[..., None], channels=tuple(range(80))),
        ]
        return model.run(SHORT, edits=edits, capture=["state.1@4", "state.1@1"])

    assert agrees(lambda v: late(v).logits.softmax(-1)[..., 7].sum(), value)
    assert agrees(lambda v: (late(v)["state.1@4"] ** 2).sum() + late(v)["state.1@1"].sum(), value)


def test_a_replaced_part_passes_no_gradient_to_what_it_replaced():
    model = tiny("gpt2", torch.float64)
    before = torch.zeros(model.d_model, dtype=torch.float64, requires_grad=True)
    fixed = torch.ones(model.d_model, dtype=torch.float64)
    edits = [Add("resid.0@1", before), Replace("resid.2@1", fixed), Replace("resid.2@2", fixed)]
    logits = model.run(SHORT, edits=edits).logits
    assert torch.autograd.grad(logits[:, 1:3].sum(), before, retain_graph=True)[0].abs().max() == 0
    assert torch.autograd.grad(logits[:, 3].square().sum(), before)[0].abs().max() > 0
