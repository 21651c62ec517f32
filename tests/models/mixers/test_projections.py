"""Layouts of projections: by head they give what they give at once, and attention reads it."""

import pytest
import torch
from tests.models.helpers import relative, tiny

from homolog.models.mixers.projections import READS

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = {
    "neox-parallel": 1,
    "gpt2": 1,
    "llama-bias": 1,
    "qwen3_next-attention": 1,  # a gate beside the query
    "kimi_linear-attention": 1,  # keys and values of one latent vector
    "deepseek_v2": 0,
    "deepseek_v3": 1,
}
TOKENS = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", list(CASES))
def test_one_of_the_three_by_head_is_that_of_all_at_once(case):
    mixer = tiny(case, torch.float64).mixer(f"z.{CASES[case]}")
    project, d_model = mixer.parts.project, mixer.parts.head_matrix()[0].shape[-1]
    x = torch.randn(2, 5, d_model, dtype=torch.float64)
    for read, whole in zip(READS, project(x), strict=True):
        heads = whole.shape[-2]
        by_head = x.unsqueeze(-2).expand(2, 5, heads, d_model)
        assert relative(project.of_streams(read, by_head), whole) < 1e-12
        for head in range(heads):
            assert relative(project.of_streams(read, x, head), whole[..., head, :]) < 1e-12


@pytest.mark.parametrize("case", list(CASES))
def test_what_positions_enter_with_reproduces_the_last_position(case):
    model, layer = tiny(case, torch.float64), CASES[case]
    mixer = model.mixer(f"z.{layer}")
    sites = [site for site in model.sites() if site.layer == layer]
    run = model.run(TOKENS, capture=sites)
    h = run[f"query_in.{layer}"][:, :, 0]
    inputs = mixer.enter(h, model.context(h))
    end = {kind: value[:, -1] for kind, value in inputs.items()}
    z = mixer.read(mixer.memory(inputs), end)
    assert relative(z, run[f"z.{layer}"][:, -1]) < 1e-10
    assert relative(mixer.leave(end, z), run[f"attn_out.{layer}"][:, -1]) < 1e-10
    out, head = run[f"attn_out.{layer}"][:, -1], 2
    same = mixer.leave_heads(end, z, [head], z[None, :, head], out)
    assert relative(same[0], out) < 1e-10
    changed = z.clone()
    changed[:, head] += 1
    other = mixer.leave_heads(end, z, [head], changed[None, :, head], out)
    assert relative(other[0], mixer.leave(end, changed)) < 1e-10
