"""Models without an adapter of their own: from folders, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.tiny_configurations import tiny_configuration
from tests.models.helpers import relative, returned_by
from tests.reference import tiny_models as tiny
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    PreTrainedModel,
    T5Config,
    ViTConfig,
    XLMConfig,
    XLMWithLMHeadModel,
)
from transformers.integrations import hub_kernels

import homolog
from homolog.errors import InputError
from homolog.models import require_inner_sites
from homolog.models.any_decoder import AnyDecoder
from homolog.models.guards import no_fetched_kernels
from homolog.models.random_weights import fresh

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(0))
SAVED = {
    "qwen3": (tiny.tiny_qwen3, "model.layers"),
    "mamba2": (tiny.tiny_mamba2, "backbone.layers"),
    "rwkv": (tiny.tiny_rwkv, "rwkv.blocks"),
    "falcon_h1": (tiny.tiny_falcon_h1, "model.layers"),
    "mixtral": (tiny.tiny_mixtral, "model.layers"),
}


@pytest.mark.parametrize("case", list(SAVED))
def test_a_saved_model_loads_and_reads_the_same(case, tmp_path):
    build, path = SAVED[case]
    hf = build()
    hf.save_pretrained(tmp_path)
    if case == "rwkv":
        hf.config.rescale_every = 0
    expected = returned_by(hf, path, TOKENS)
    model = homolog.load(tmp_path)
    assert (model.architecture, model.tokenizer) == (case, None)
    assert not any(p.requires_grad for p in model.hf.parameters())
    for ours, theirs in zip(model.residuals(TOKENS), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    half = homolog.load(tmp_path, dtype=torch.bfloat16)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    if case == "rwkv":
        theirs.config.rescale_every = 0
    for ours, rounded in zip(
        half.residuals(TOKENS), returned_by(theirs, path, TOKENS), strict=True
    ):
        assert ours.dtype == rounded.dtype
        # the decays of these three stay in float32 here
        bound = 0.03 if case in ("mamba2", "falcon_h1", "rwkv") else 0.0
        assert relative(ours.float(), rounded.float()) <= bound


@pytest.mark.parametrize("build", [tiny.tiny_llama, tiny.tiny_gpt_neox, tiny.tiny_qwen3])
def test_rotary_frequencies_are_not_rounded_with_the_weights(build, tmp_path):
    hf = build()
    hf.save_pretrained(tmp_path)
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    exact = {name: buffer for name, buffer in hf.named_buffers() if name.endswith("inv_freq")}
    assert exact
    for model in (
        homolog.load(tmp_path, dtype=torch.bfloat16),
        homolog.load(tmp_path / "fresh", dtype=torch.bfloat16, random=True),
    ):
        buffers = dict(model.hf.named_buffers())
        assert all(torch.equal(buffers[name], buffer) for name, buffer in exact.items())
        assert {p.dtype for p in model.hf.parameters()} == {torch.bfloat16}
        assert model.run(TOKENS).logits is not None


def test_random_weights_of_any_decoder(tmp_path):
    tiny.tiny_qwen3(vocab_size=60000).config.save_pretrained(tmp_path)
    model = homolog.load(tmp_path, random=True)
    assert (model.architecture, model.n_layers, model.d_model) == ("qwen3", 3, 32)
    assert torch.equal(
        model.run(TOKENS).logits, homolog.load(tmp_path, random=True).run(TOKENS).logits
    )


def config_folder(folder: Path, config: Any) -> Path:
    config.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BartConfig(), ["'bart'", "an encoder and a decoder"]),
        (T5Config(), ["'t5'", "an encoder and a decoder"]),
        (ViTConfig(), ["'vit'", "no causal language model"]),
    ],
)
def test_what_is_no_decoder_is_refused_before_its_weights_are_read(config, words, tmp_path):
    folder = config_folder(tmp_path, config)
    for random in (False, True):
        with pytest.raises(InputError) as error:
            homolog.load(folder, random=random)
        assert all(word in str(error.value) for word in words)
        assert "Take a language model that is a decoder alone." in str(error.value)


def test_an_architecture_that_transformers_lacks_and_code_beside_the_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "modeling_mine.py").write_text(
        "raise AssertionError('code beside the weights was run')"
    )
    for extra in (
        {},
        {
            "auto_map": {
                "AutoConfig": "modeling_mine.Config",
                "AutoModelForCausalLM": "modeling_mine.M",
            }
        },
    ):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine"} | extra))
        with pytest.raises(
            InputError, match=r"not know its architecture.*code that comes with a model is not run"
        ):
            homolog.load(tmp_path)


def test_a_model_that_looks_ahead_is_refused(tmp_path):
    small = BertConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=56,
    )
    torch.manual_seed(0)
    BertLMHeadModel(small).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"'bert'.*must not look ahead; a later token changes what block 0 returns"
    ):
        homolog.load(tmp_path)
    small.is_decoder = True
    assert AnyDecoder("bert", BertLMHeadModel(small)).n_layers == 2


def test_it_must_be_clear_which_list_the_blocks_are():
    hf = XLMWithLMHeadModel(XLMConfig(vocab_size=97, emb_dim=32, n_layers=2, n_heads=4))
    with pytest.raises(InputError) as error:
        AnyDecoder("two lists", hf)
    for word in (
        "'xlm'",
        "candidates",
        "transformer.attentions (2)",
        "transformer.ffns (2)",
        "one list",
    ):
        assert word in str(error.value)


def test_blocks_beside_the_embedding_where_a_tower_for_images_has_as_many(tmp_path):
    fresh(tiny_configuration("gemma3"), 0).save_pretrained(tmp_path)
    model = homolog.load(tmp_path)
    vision, text = model.hf.model.vision_tower, model.hf.model.language_model
    assert len(vision.encoder.layers) == len(text.layers) == model.n_layers
    assert model.blocks() is text.layers
    for ours, theirs in zip(
        model.residuals(TOKENS % 96),
        returned_by(model.hf, "model.language_model.layers", TOKENS % 96),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


class Toy(PreTrainedModel):
    """A module whose forward is given, over two blocks."""

    config_class = LlamaConfig

    def __init__(self, forward: Any, block: Any = torch.nn.Identity) -> None:
        super().__init__(
            LlamaConfig(vocab_size=20, hidden_size=4, num_hidden_layers=2, num_attention_heads=2)
        )
        self.embed = torch.nn.Embedding(20, 4)
        self.blocks = torch.nn.ModuleList([block(), block()])
        self._run = forward

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (self._run(self, self.embed(input_ids)) @ self.embed.weight.T,)


class Dictionary(torch.nn.Module):
    def forward(self, h: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": h}


@pytest.mark.parametrize(
    ("forward", "block", "words"),
    [
        (
            lambda m, h: m.blocks[1](m.blocks[0](m.blocks[0](h))),
            torch.nn.Identity,
            "once each, in order.*0, 0, 1",
        ),
        (lambda m, h: m.blocks[0](m.blocks[1](h)), torch.nn.Identity, "once each, in order.*1, 0"),
        (lambda m, h: m.blocks[0](h), torch.nn.Identity, "once each, in order"),
        (
            lambda m, h: m.blocks[1](m.blocks[0](h[:, 1:])),
            torch.nn.Identity,
            "batch, position and width",
        ),
        (
            lambda m, h: m.blocks[1](m.blocks[0](h))["hidden"],
            Dictionary,
            "token ids alone",
        ),
        (
            lambda m, h: m.blocks[1](m.blocks[0](h)["hidden"])["hidden"],
            Dictionary,
            "a tensor or a tuple, not dict",
        ),
        (
            lambda m, h: m.blocks[1](m.blocks[0](h.flip(1))),
            torch.nn.Identity,
            "must not look ahead",
        ),
    ],
)
def test_blocks_that_are_no_blocks_are_refused(forward, block, words):
    with pytest.raises(InputError, match=words):
        AnyDecoder("toy", Toy(forward, block))


def test_a_sound_module_that_takes_nothing_but_tokens():
    model = AnyDecoder("toy", Toy(lambda m, h: m.blocks[1](m.blocks[0](h))))
    run = model.run(TOKENS % 20, capture=["resid.0"])
    torch.testing.assert_close(run["resid.0"], model.hf.embed(TOKENS % 20))
    torch.testing.assert_close(model.run(TOKENS % 20, last_only=True).logits, run.logits[:, -1:])


class Experts(torch.nn.Module):
    """A block with as many experts as the model has blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.experts[0](h) + self.experts[1](h)


def test_lists_of_experts_are_not_taken_for_the_blocks():
    hf = Toy(lambda m, h: m.blocks[1](m.blocks[0](h)), Experts)
    model = AnyDecoder("toy", hf)
    for ours, theirs in zip(model.residuals(TOKENS % 20), returned_by_blocks(hf), strict=True):
        torch.testing.assert_close(ours, theirs)


def returned_by_blocks(hf: Any) -> list[torch.Tensor]:
    first = hf.blocks[0](hf.embed(TOKENS % 20))
    return [first, hf.blocks[1](first)]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.run(TOKENS, capture=["resid.9"]), ["resid.9", "no such site", "'resid.2'"]),
        (
            lambda m: m.run(TOKENS, capture=["z.0"]),
            ["z.0", "its kinds are embed, resid_pre, resid"],
        ),
        (
            lambda m: m.run(TOKENS, capture=["resid.2"], stop_after="resid.1"),
            ["resid.2", "stops after resid.1"],
        ),
        (lambda m: m.run(TOKENS + 90), ["tokens", "97 token ids"]),
        (lambda m: m.run(TOKENS.repeat(1, 9)), ["tokens", "64 positions", "shorter windows"]),
        (
            lambda m: m.continue_from(3, torch.zeros(1, 2, 32)),
            ["layer is 3", "3 blocks", "-1 to 2"],
        ),
        (lambda m: m.neuron_sites(0), ["'opt'", "names its neurons", "controls.neurons = false"]),
    ],
)
def test_errors_name_what_is_wrong(call, words):
    model = AnyDecoder("tiny opt", tiny.tiny_opt().requires_grad_(False))
    with pytest.raises(InputError) as error:
        call(model)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_work_inside_blocks_needs_an_own_adapter(tmp_path):
    tiny.tiny_opt().config.save_pretrained(tmp_path)
    for random in (False, True):
        with pytest.raises(InputError, match=r"reading neurons needs.*'opt' has none \(\d+ have"):
            require_inner_sites(tmp_path, "reading neurons", "Do without.", random=random)
    tiny.tiny_llama().config.save_pretrained(tmp_path)
    require_inner_sites(tmp_path, "reading neurons", "Do without.")
    require_inner_sites("zoo:mamba-s0", "reading neurons", "Do without.")
    with pytest.raises(InputError, match="no such"):
        require_inner_sites("no-such-model", "reading neurons", "Do without.")


def test_no_kernel_is_fetched_while_a_module_is_built(monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(hub_kernels, "get_kernel", lambda *a, **k: asked.append(a))
    with no_fetched_kernels(), pytest.raises(ImportError, match="fetches no kernels"):
        hub_kernels.get_kernel("kernels-community/rwkv", version=1)
    hub_kernels.get_kernel("mine")
    assert asked == [("mine",)]
