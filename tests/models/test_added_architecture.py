"""An architecture from outside the package is added as documented, and read like the others.

`averaging_model.py` is the whole of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.models.helpers import TOKENS
from tests.reference.tiny_models import tiny_llama
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import homolog
from homolog.errors import InputError
from homolog.models import Add, Replace, register, require_inner_sites
from homolog.models.any_decoder import AnyDecoder
from homolog.models.architectures import ADAPTERS
from homolog.models.llama import Llama
from homolog.models.sites import KINDS


@pytest.fixture(scope="module")
def averaging() -> Iterator[ModuleType]:
    """The module that adds the architecture; what it adds to this package ends with these tests."""
    adapters, kinds = dict(ADAPTERS), dict(KINDS)
    yield importlib.import_module("tests.models.averaging_model")
    for registry, before in ((ADAPTERS, adapters), (KINDS, kinds)):
        for name in registry.keys() - before.keys():
            del registry[name]


@pytest.fixture(scope="module")
def folder(averaging: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("averaging")
    averaging.AveragingForCausalLM(averaging.AveragingConfig()).save_pretrained(path)
    return path


def averages(hf: torch.nn.Module, tokens: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """What each block reads at each position, the stream after each, and the logits; by loops."""
    h = hf.embed_tokens(tokens)
    read, streams = [], []
    for block in hf.blocks:
        means = [h[:, : t + 1].sum(1) / (t + 1) for t in range(h.shape[1])]
        read.append(torch.stack(means, 1))
        h = h + block(read[-1])
        streams.append(h)
    return read, streams, hf.lm_head(h)


def test_it_loads_from_a_folder_and_its_sites_are_read_and_edited(folder: Path) -> None:
    model = homolog.load(folder)
    assert (type(model).__name__, model.architecture) == ("Averaging", "averaging")
    assert (model.n_layers, model.d_model) == (3, 16)
    run = model.run(TOKENS, capture=["average.1", "average.2@-1", "mixer_out.0", "resid.2"])
    read, streams, logits = averages(model.hf, TOKENS)
    torch.testing.assert_close(run["average.1"], read[1])
    torch.testing.assert_close(run["average.2@-1"], read[2][:, -1])
    torch.testing.assert_close(run["mixer_out.0"], model.hf.blocks[0](read[0]))
    torch.testing.assert_close(run["resid.2"], streams[2])
    torch.testing.assert_close(run.logits, logits)
    # the last block is linear: what is added to its average comes out through its weights
    edited = model.run(TOKENS, edits=[Add("average.2", torch.ones(16))]).logits
    expected = model.hf.lm_head(streams[2] + model.hf.blocks[2].weight.sum(1))
    torch.testing.assert_close(edited, expected)


def test_what_every_model_can_it_can_too(folder: Path) -> None:
    model = homolog.load(folder, dtype=torch.float64)
    run = model.run(TOKENS, capture=["resid.0"])
    torch.testing.assert_close(model.continue_from(0, run["resid.0"]), run.logits)
    torch.testing.assert_close(
        model.run(TOKENS, edits=[Replace("resid.0", run["resid.0"])]).logits, run.logits
    )
    with pytest.raises(InputError, match=r"'averege\.0'.*Did you mean 'average\.0'\?"):
        model.run(TOKENS, capture=["averege.0"])


def test_it_names_no_neurons_and_that_is_said(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'averaging' has none \(\d+ have: docs/sites.md\)"):
        require_inner_sites(folder, "reading neurons", "Do without.")
    with pytest.raises(InputError, match="no adapter that names its neurons"):
        homolog.load(folder).neuron_sites(0)


def test_an_architecture_like_a_known_one_is_two_lines(averaging: ModuleType) -> None:
    class LikeLlama(Llama):
        architecture = "like-llama"

    register(LikeLlama)
    hf = tiny_llama().requires_grad_(False)
    theirs = hf(TOKENS).logits
    torch.testing.assert_close(ADAPTERS["like-llama"]("tiny", hf).run(TOKENS).logits, theirs)


def test_without_an_adapter_the_module_itself_runs(averaging: ModuleType, tmp_path: Path) -> None:
    class PlainConfig(averaging.AveragingConfig):
        model_type = "plain"

    class PlainForCausalLM(averaging.AveragingForCausalLM):
        config_class = PlainConfig

        def forward(self, input_ids: Tensor) -> tuple[Tensor]:
            h = self.embed_tokens(input_ids)
            for block in self.blocks:
                h = block(h)
            return (self.lm_head(h),)

    AutoConfig.register("plain", PlainConfig)
    AutoModelForCausalLM.register(PlainConfig, PlainForCausalLM)
    hf = PlainForCausalLM(PlainConfig())
    hf.save_pretrained(tmp_path)
    model = homolog.load(tmp_path)
    assert isinstance(model, AnyDecoder)
    run = model.run(TOKENS, capture=["resid.0"])
    torch.testing.assert_close(run["resid.0"], hf.blocks[0](hf.embed_tokens(TOKENS)))


@pytest.mark.parametrize(
    ("attributes", "kinds", "words"),
    [
        ({"architecture": "gpt2"}, {}, ["architecture is 'gpt2'", "homolog.models.gpt2.GPT2"]),
        ({"site_kinds": ("resid_pre", "means")}, {}, ["site_kinds is 'means'", "KINDS"]),
        ({}, {"a.b": ("batch", "position")}, ["kinds is {'a.b'", "a word of letters"]),
        ({}, {"mean": ("position", "batch")}, ["kinds is {'mean'", "first axis is the batch"]),
        ({}, {"z": ("batch", "position")}, ["kinds is {'z'", "batch, position, head, d_head"]),
    ],
)
def test_what_cannot_be_registered_is_refused(
    averaging: ModuleType, attributes: dict, kinds: dict, words: list[str]
) -> None:
    wrong = type("Wrong", (averaging.Averaging,), {"architecture": "wrong", **attributes})
    with pytest.raises(InputError) as error:
        register(wrong, kinds)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "wrong" not in ADAPTERS
