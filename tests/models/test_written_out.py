"""Hybrids and their relatives: every block against one written out, and against the module."""

import pytest
import torch
from tests.models.helpers import HYBRIDS, RELATIVES, relative, returned_by, tiny
from tests.reference.hybrid_blocks import Sites, hybrid_block

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = [*HYBRIDS, *RELATIVES]
TOKENS = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", CASES)
def test_every_site_in_float64_equals_a_block_written_out(case):
    model = tiny(case, torch.float64)
    run = model.run(TOKENS, capture=model.sites())
    for layer in range(model.n_layers):
        sites = Sites()
        hybrid_block(model.hf, layer, run[f"resid_pre.{layer}"], sites)
        assert set(sites.values) == set(model.layer_kinds(layer))
        routed = "mlp_hidden" not in sites.values  # by weights in float32
        for kind, value in sites.values.items():
            bound = 1e-6 if routed and kind in ("mlp_out", "resid") else 1e-10
            assert relative(run[f"{kind}.{layer}"], value) < bound, (layer, kind)


@pytest.mark.parametrize("case", CASES)
def test_streams_and_logits_are_those_of_the_module(case):
    model = tiny(case)
    streams = returned_by(model.hf, "model.layers", TOKENS)
    for ours, theirs in zip(model.residuals(TOKENS), streams, strict=True):
        assert relative(ours, theirs) < 1e-5
    with torch.no_grad():
        assert relative(model.run(TOKENS).logits, model.hf(TOKENS).logits) < 1e-5
