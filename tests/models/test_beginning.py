"""A token before every window: what comes back is that of a plain pass over one token more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

import homolog
from homolog.errors import InputError
from homolog.models import Add, LanguageModel, Replace, Resample, Transform, Zero
from homolog.models.any_decoder import AnyDecoder
from homolog.models.beginning import chosen_beginning, known_beginning, template
from homolog.models.gpt2 import GPT2
from homolog.models.llama import Llama
from homolog.models.mamba import Mamba

BOS, LAYERS, LENGTH = 3, 3, 9
SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": LAYERS}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
MAKERS = {
    "llama": lambda: (
        Llama,
        LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, intermediate_size=32)),
    ),
    "gpt2": lambda: (
        GPT2,
        GPT2LMHeadModel(
            GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=LAYERS, n_head=4)
        ),
    ),
    "mamba": lambda: (Mamba, MambaForCausalLM(MambaConfig(**SIZES, state_size=4))),
    "any": lambda: (
        AnyDecoder,
        Gemma2ForCausalLM(Gemma2Config(**SIZES, **HEADS, intermediate_size=32)),
    ),
}


def tokenizer(first: str = "", bos: str | None = "<bos>") -> PreTrainedTokenizerFast:
    """Of two words; `first` stands before a text in its template."""
    ids = {"a": 0, "b": 1, "<eos>": 2, "<bos>": BOS, "<sop>": 4}
    made = Tokenizer(models.WordLevel(ids, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if first:
        made.post_processor = processors.TemplateProcessing(
            single=f"{first} $A <eos>",
            special_tokens=[(name, ids[name]) for name in (*first.split(), "<eos>")],
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos, eos_token="<eos>")


@pytest.fixture(params=list(MAKERS), scope="module")
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    adapter, hf = MAKERS[request.param]()
    with torch.no_grad():
        for weight in hf.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    hf.eval().requires_grad_(False)
    return adapter(request.param, hf, tokenizer())


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    return torch.randint(5, 50, (4, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def begun_text(text: torch.Tensor) -> torch.Tensor:
    """The same windows with the token in front, for plain passes."""
    return torch.cat([torch.full((len(text), 1), BOS), text], dim=1)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_residuals_and_logits_are_those_of_transformers_with_the_token_in_front(
    model: LanguageModel, text: torch.Tensor, begun_text: torch.Tensor
) -> None:
    seen: list[torch.Tensor] = []

    def keep(_block: Any, _args: Any, output: Any) -> None:
        seen.append(output if isinstance(output, torch.Tensor) else output[0])

    hooks = [block.register_forward_hook(keep) for block in model.blocks()]
    expected = model.hf(begun_text).logits
    for hook in hooks:
        hook.remove()
    begun = model.begun("true")
    residuals = begun.residuals(text)
    assert [h.shape for h in residuals] == [(len(text), LENGTH, 16)] * LAYERS
    for ours, theirs in zip(residuals, seen, strict=True):
        close(ours, theirs[:, 1:])
    run = begun.run(text)
    assert run.logits is not None
    close(run.logits, expected[:, 1:])
    last = begun.run(text, last_only=True).logits
    assert last is not None
    close(last, expected[:, -1:])
    plain = model.run(text).logits  # the token changes what is computed, and the model is as it was
    assert plain is not None and float((plain - run.logits).abs().max()) > 1e-3


def without_first(value: torch.Tensor, axes: tuple[str, ...]) -> torch.Tensor:
    for number, axis in enumerate(axes):
        if axis in ("position", "key_position"):
            value = value.index_select(number, torch.arange(1, value.shape[number]))
    return value


def test_every_site_lacks_the_token_and_positions_count_from_the_text(
    model: LanguageModel, text: torch.Tensor, begun_text: torch.Tensor
) -> None:
    sites = model.sites()
    names = [f"{site}@{at}" for site in sites if site.kind != "pattern" for at in (0, -1)]
    whole, plain = model.begun("true").run(text, sites), model.plain.run(begun_text, sites)
    for site in sites:
        close(whole[site], without_first(plain[site], site.axes))
    parts = model.begun("true").run(text, names)
    shifted = model.plain.run(begun_text, [name.replace("@0", "@1") for name in names])
    for name in names:
        close(parts[name], shifted[name.replace("@0", "@1")])


def edits_of(model: LanguageModel, by: int) -> list[list[Any]]:
    """Edits at some text positions, moved by so many; each list is of one run."""
    width = torch.linspace(-1, 1, 16)
    own = torch.tensor([0, 3, 8, 5]) + by
    cases: list[list[Any]] = [
        [Replace("embed", width, positions=[2 + by])],
        [Add("resid.1", width, positions=own)],
        [Add(f"resid.0@{4 + by}", width), Zero("resid_pre.2", positions=[-1], channels=[1, 2])],
    ]
    kinds = model.layer_kinds(1)
    if "pattern" in kinds:
        cases.append([Transform("z.1", positions=[0 + by, 7 + by], heads=[2], function=torch.neg)])
        cases.append([Zero("head_out.1.1", positions=[3 + by])])
    if "state" in kinds:
        cases.append([Zero("state.1", positions=[5 + by])])
        cases.append([Zero("write.0", positions=own), Zero("conv_taps.2", positions=[0 + by])])
    return cases


def test_edits_are_those_of_a_plain_pass_one_position_later(
    model: LanguageModel, text: torch.Tensor, begun_text: torch.Tensor
) -> None:
    cases = zip(edits_of(model, 0), edits_of(model, 1), strict=True)
    read = ["embed", "resid.0", "resid.2"]
    for ours, theirs in cases:
        run = model.begun("true").run(text, read, edits=ours)
        plain = model.plain.run(begun_text, read, edits=theirs)
        assert run.logits is not None and plain.logits is not None
        close(run.logits, plain.logits[:, 1:])
        for name in read:
            close(run[name], plain[name][:, 1:])


def test_whole_sites_of_another_run_are_put_beside_the_token(
    model: LanguageModel, text: torch.Tensor
) -> None:
    begun = model.begun("true")
    source = begun.run(text.flip(0), ["resid.1"])
    run = begun.run(text, edits=[Resample("resid.1", source=source)])
    close(run.logits, begun.run(text.flip(0)).logits)  # type: ignore[arg-type]


def test_an_attention_pattern_keeps_what_goes_to_the_token(
    text: torch.Tensor, begun_text: torch.Tensor
) -> None:
    torch.manual_seed(0)
    model = Llama("llama", MAKERS["llama"]()[1].eval().requires_grad_(False), tokenizer())
    begun = model.begun("true")
    pattern = begun.run(text, ["pattern.1"])["pattern.1"]
    assert pattern.shape == (4, 4, LENGTH, LENGTH) and bool((pattern.sum(-1) < 1).all())
    off = begun.run(text, ["z.1"], edits=[Zero("pattern.1")])["z.1"]
    run = model.run(begun_text, ["pattern.1", "value.1"])
    to_first, values = run["pattern.1"][:, :, 1:, :1], run["value.1"].repeat_interleave(2, dim=2)
    close(off, to_first.transpose(1, 2) * values[:, :1])  # all that is left to attend to


def test_a_pass_goes_on_from_the_stream_of_the_text(
    model: LanguageModel, text: torch.Tensor
) -> None:
    begun = model.begun("true")
    sites = ["embed", *(f"resid.{layer}" for layer in range(LAYERS))]
    run = begun.run(text, sites)
    assert run.logits is not None
    for layer, site in enumerate(sites, start=-1):
        close(begun.continue_from(layer, run[site]), run.logits)
        close(begun.continue_from(layer, run[site], last_only=True), run.logits[:, -1:])
    edits = [Add("resid.2", torch.ones(16), positions=[2, 6])]
    expected = begun.run(text, edits=edits).logits
    assert expected is not None
    close(begun.continue_from(0, run["resid.0"], edits), expected)


def test_gradients_reach_what_was_read(
    model: LanguageModel, text: torch.Tensor, begun_text: torch.Tensor
) -> None:
    gradients = []
    for reader, tokens in ((model.begun("true"), text), (model.plain, begun_text)):
        embedded = reader.run(tokens, ["embed"])["embed"].detach().requires_grad_()
        run = reader.run(tokens, ["resid.1"], edits=[Replace("embed", embedded)])
        assert run.logits is not None
        answer = run.logits[:, -1, 7].sum()
        gradients.append(torch.autograd.grad(answer, [embedded, run["resid.1"]]))
    for ours, theirs in zip(*gradients, strict=True):
        close(ours, theirs[:, 1:])


def test_a_window_needs_a_position_for_the_token() -> None:
    model = GPT2("small", MAKERS["gpt2"]()[1].eval(), tokenizer())
    begun, window = model.begun("true"), torch.zeros(1, 32, dtype=torch.long)
    model.run(window)
    begun.run(window[:, 1:])
    with pytest.raises(InputError, match=r"first of them for the token .* at most 31 tokens"):
        begun.run(window)
    with pytest.raises(InputError, match=r"corpus\.context.*at most 31"):
        begun.require_positions(32, "corpus.context")


def test_a_token_that_the_model_does_not_embed_is_refused() -> None:
    hf = LlamaForCausalLM(LlamaConfig(**SIZES | {"vocab_size": 3}, **HEADS, intermediate_size=32))
    with pytest.raises(InputError, match="embeds 3 token ids"):
        Llama("narrow", hf.eval(), tokenizer()).begun("true")


def test_auto_does_what_the_template_does() -> None:
    assert template(tokenizer("<bos>")) == [BOS] and template(tokenizer()) == []
    assert chosen_beginning("m", tokenizer("<bos>")) == BOS
    assert chosen_beginning("m", tokenizer("<bos>", bos=None)) == BOS  # whatever it is called
    assert chosen_beginning("m", tokenizer("<bos>"), "false") is None
    # a beginning of text that the tokenizer has, and puts nowhere
    assert chosen_beginning("m", tokenizer()) is None
    assert chosen_beginning("m", tokenizer(), "true") == BOS == known_beginning(tokenizer())
    assert chosen_beginning("m", None) is None


def test_models_that_ship_read_windows_as_they_are() -> None:
    model = homolog.load("zoo:mamba-s0")
    assert model.begun() is model and model.plain is model and model.bos is None


def test_a_beginning_that_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="tokenizer of mine has no token that texts begin with"):
        chosen_beginning("mine", tokenizer(bos=None), "true")
    with pytest.raises(InputError, match=r"mine puts 2 tokens first \(<bos>, <sop>\)"):
        chosen_beginning("mine", tokenizer("<bos> <sop>"))
    assert chosen_beginning("mine", tokenizer("<bos> <sop>"), "true") == BOS
