"""Every architecture of Llama's family, against the unmodified module and a plain block."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.helpers import TOKENS, adapter, relative
from tests.reference import plain_hybrids
from tests.reference.plain_family import plain_block, plain_logits, seen_by_hooks
from tests.reference.tiny_family import FIELDS, tiny_family

import homolog
from homolog.errors import InputError
from homolog.models.architectures import ADAPTERS
from homolog.models.llama_family import FAMILY
from homolog.models.mlp import OwnMLP

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=FIELDS)
def model(request):
    return adapter(tiny_family(request.param))


def test_each_has_a_tiny_model():
    assert set(FAMILY) == {*FIELDS, "llama"}


def test_the_page_of_sites_lists_every_architecture():
    page = (Path(__file__).parents[2] / "docs" / "sites.md").read_text("utf-8")
    listed = page[page.index("## Architectures") : page.index("## Any other decoder")]
    assert ADAPTERS.keys() <= set(re.findall(r"`(\w+)`", listed))


def test_one_that_sees_later_positions_is_refused(tmp_path):
    tiny_family("gemma3_text", use_bidirectional_attention=True).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="its positions see those after them"):
        homolog.load(tmp_path)


def test_every_site_equals_hooks_and_formulas_on_the_unmodified_module(model):
    assert model.architecture == model.hf.config.model_type
    expected, logits = plain_hybrids.sites_and_logits(model.hf, TOKENS)
    run = model.run(TOKENS, capture=model.sites())
    assert set(expected) == set(map(str, model.sites()))
    for name, value in (expected | seen_by_hooks(model.hf, TOKENS)).items():
        assert relative(run[name], value) < 1e-5, name
    assert relative(run.logits, logits) < 1e-5


def test_float64_equals_a_pass_written_out_in_float64(model):
    wide: Any = ADAPTERS[model.architecture]("wide", model.hf.double())
    expected, stream = {}, []
    run = wide.run(TOKENS, capture=wide.sites())
    for layer, block in enumerate(wide.blocks()):
        keep = expected.setdefault(layer, {})
        before = stream[-1] if stream else run["embed"]
        stream.append(plain_block(wide.hf, block, before, lambda kind, v, k=keep: kept(k, kind, v)))
    # modules of experts choose them in float32
    branches = [b for layer in range(3) for b in wide.branches(layer)]
    bound = 1e-7 if any(isinstance(b, OwnMLP) for b in branches) else 1e-10
    for layer, values in expected.items():
        for kind, value in values.items():
            assert run[f"{kind}.{layer}"].dtype == torch.float64
            assert relative(run[f"{kind}.{layer}"], value) < bound, (kind, layer)
    assert relative(run.logits, plain_logits(wide.hf, TOKENS)) < bound


def kept(values, kind, value):
    values[kind] = value
    return value
