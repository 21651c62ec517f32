"""A model that needs its beginning: planted, with losses that are known without running it.

Words follow each other by a chain with known probabilities P.  In a Llama of one block with one-hot
embeddings the unembedding reads log P of the current word, and the only head attends to <bos>,
which has no value.  Where there is no <bos>, it attends evenly to all words before, each of which
writes its neighbour into the stream.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import homolog
from homolog.corpus import TokenWindows, pack, read_documents
from homolog.errors import InputError
from homolog.features import Pool, StreamedResiduals, capture
from homolog.features.beginnings import checked_beginning, measure_beginning
from homolog.features.splicing import clean_loss, full_residuals, spliced_loss
from homolog.models import LanguageModel, Site
from homolog.models.beginning import known_beginning
from homolog.pipeline import circuits
from homolog.pipeline.beginnings import read_on_text
from homolog.pipeline.recipes import parse_circuits, parse_saes
from homolog.pipeline.sae import train_saes
from homolog.pipeline.sae_eval import evaluate_sae
from homolog.progress import SilentProgress
from homolog.record.recipe import EvaluationRecipe
from homolog.record.sides import StudyModel

WORDS = 12
BOS, EOS = WORDS, WORDS + 1
D = 16  # one dimension a token, one that is always 1, one that says <bos>
ALWAYS, IS_BOS = WORDS + 2, WORDS + 3


def chain() -> np.ndarray:
    """P[i, j]: the probability of word j after word i; after <eos> all alike."""
    P = np.random.default_rng(0).dirichlet(np.full(WORDS, 0.3), size=WORDS + 2)
    P = 0.97 * P + 0.03 / WORDS
    P[WORDS:] = 1 / WORDS
    return P


def write_text(path: Path, n_documents: int = 20, length: int = 400) -> None:
    rng, P = np.random.default_rng(1), chain()
    with path.open("w", encoding="utf-8") as file:
        for _ in range(n_documents):
            words = [EOS]
            for _ in range(length):
                words.append(int(rng.choice(WORDS, p=P[words[-1]])))
            file.write(json.dumps({"text": " ".join(f"w{word}" for word in words[1:])}) + "\n")


def tokenizer(begins: bool, bos: str | None = None) -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(WORDS)} | {"<bos>": BOS, "<eos>": EOS}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if begins:
        made.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", BOS)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<bos>" if begins else bos, eos_token="<eos>"
    )


def save_model(folder: Path, begins: bool = True) -> Path:
    config = LlamaConfig(
        vocab_size=WORDS + 2,
        hidden_size=D,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
        tie_word_embeddings=False,
        rms_norm_eps=1e-12,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        embeddings, block = model.model.embed_tokens.weight, model.model.layers[0].self_attn
        embeddings[range(WORDS + 2), range(WORDS + 2)] = 1.0
        embeddings[:, ALWAYS] = 1.0
        embeddings[BOS, IS_BOS] = 1.0
        block.q_proj.weight[D // 2 - 1, ALWAYS] = (
            40.0  # the slowest pair of rotary dimensions does not turn
        )
        block.k_proj.weight[D // 2 - 1, IS_BOS] = 40.0
        for word in range(WORDS):
            block.v_proj.weight[(word + 1) % WORDS, word] = 10.0
        block.o_proj.weight.copy_(torch.eye(D))
        scale = np.sqrt(D / 2)  # of a stream of two ones after its norm
        model.lm_head.weight[:, : WORDS + 2] = -100.0
        model.lm_head.weight[:WORDS, : WORDS + 2] = torch.from_numpy(np.log(chain()).T / scale)
    model.save_pretrained(folder)
    tokenizer(begins).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return homolog.load(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def windows(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> TokenWindows:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    write_text(path)
    return pack(read_documents(path), model.tokenizer, 64)


def surprise(windows: TokenWindows) -> float:
    """The planted chain's loss of the first 32 windows, the last token left out."""
    first, counted = windows.tokens[:32, :-1], windows.mask[:32, 1:-1]
    by_token = -np.log(chain())[first[:, :-1], np.minimum(first[:, 1:], WORDS - 1)]
    return float(by_token[counted].mean())


def test_losses_without_and_with_the_beginning_are_those_of_the_planted_chain(
    model: LanguageModel, windows: TokenWindows
) -> None:
    beginning = measure_beginning(model, windows)
    assert beginning is not None and beginning.token == "<bos>" and not beginning.begins
    assert beginning.with_it == pytest.approx(surprise(windows), abs=1e-3)
    assert beginning.without > beginning.with_it + 1 and beginning.is_wrong
    words = beginning.words("mine")
    assert f"{beginning.with_it:.2f} nats" in words and "'<bos>'" in words
    assert f"at {beginning.without:.2f} without" in words and "misses its beginning" in words
    begun = measure_beginning(model.begun(), windows)
    assert begun is not None and begun.begins and not begun.is_wrong
    assert (begun.without, begun.with_it) == (beginning.without, beginning.with_it)


def test_a_choice_that_costs_half_a_nat_is_refused_where_it_was_left_to_the_tokenizer(
    model: LanguageModel, windows: TokenWindows, tmp_path: Path
) -> None:
    assert checked_beginning("mine", model.begun(), windows, "auto") is not None
    assert checked_beginning("mine", model, windows, "false") is not None  # as it was asked for
    model.tokenizer, kept = tokenizer(begins=False, bos="<bos>"), model.tokenizer
    try:  # a beginning of text that the tokenizer puts nowhere
        with pytest.raises(InputError) as refused:
            checked_beginning("mine", model.begun(), windows, "auto")
    finally:
        model.tokenizer = kept
    with_it, without = clean_losses(model, windows)
    assert refused.value.field == "bos" and "Set bos = true" in str(refused.value)
    assert f"mine predicts text at {with_it:.2f} nats" in str(refused.value)
    assert f"and at {without:.2f} without" in str(refused.value)


def test_a_run_without_windows_measures_on_a_sample_of_a_text(
    model: LanguageModel, tmp_path: Path
) -> None:
    write_text(tmp_path / "text.jsonl")
    folder = save_model(tmp_path / "model", begins=False)
    tokenizer(begins=False, bos="<bos>").save_pretrained(folder)
    text, seen = str(tmp_path / "text.jsonl"), []

    def load_one(asked: StudyModel) -> LanguageModel:
        seen.append(asked.name)
        return homolog.load(asked.ref).begun(asked.bos)

    with pytest.raises(InputError, match=r"Set bos = true"):
        read_on_text(load_one, [StudyModel(str(folder), "model")], text)
    asked = StudyModel(str(folder), "model", bos="true")
    facts = read_on_text(load_one, [asked], text)[asked.name]
    assert facts["begins"] and seen == [asked.name] * 2
    sample = pack(read_documents(text, shuffle=False), model.tokenizer, 256)
    assert facts["with_it"] == pytest.approx(surprise(sample[:8]), abs=1e-3)
    assert facts["without"] > facts["with_it"] + 1


def test_circuits_of_a_model_that_misses_its_beginning_are_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "text.jsonl")
    monkeypatch.setattr(circuits, "DEMO", str(tmp_path / "text.jsonl"))
    folder = save_model(tmp_path / "model", begins=False)
    tokenizer(begins=False, bos="<bos>").save_pretrained(folder)
    values = {"name": "small", "models": [str(folder)], "circuits": {"length": 16, "repeat": 4}}
    with pytest.raises(InputError, match=r"Set bos = true"):
        circuits.run_circuits(parse_circuits(values), tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists()


def test_a_beginning_that_a_model_does_not_know_is_refused_too(
    model: LanguageModel, windows: TokenWindows
) -> None:
    copy = homolog.load(model.name)
    head = copy.hf.lm_head.weight
    with torch.no_grad():  # now it attends to <bos>, and reads there that every word is w0
        copy.hf.model.layers[0].self_attn.v_proj.weight[ALWAYS, IS_BOS] = 10.0
        copy.hf.model.layers[0].self_attn.o_proj.weight[IS_BOS, ALWAYS] = 1.0
        head[0, IS_BOS] = 100.0
        copy.hf.model.layers[0].self_attn.v_proj.weight[:WORDS] = 0.0
    with pytest.raises(InputError, match=r"tokenizer has them with it.*Set bos = false"):
        checked_beginning("mine", copy.begun(), windows, "auto")


def clean_losses(model: LanguageModel, windows: TokenWindows) -> tuple[float, float]:
    beginning = measure_beginning(model, windows)
    assert beginning is not None
    return beginning.with_it, beginning.without


def test_what_is_captured_and_spliced_has_the_rows_of_the_text_alone(
    model: LanguageModel, windows: TokenWindows
) -> None:
    begun, site = model.begun(), Site("resid", 0)
    rows = capture(begun, windows, [site])[0]
    tokens = torch.from_numpy(windows.tokens).long()
    whole = torch.cat([torch.full((len(tokens), 1), BOS), tokens], dim=1)
    expected = model.run(whole, capture=[site])[site][:, 1:]
    kept = torch.from_numpy(windows.mask)
    assert rows.shape == (int(windows.mask.sum()), D)
    torch.testing.assert_close(rows, expected[kept], rtol=1e-5, atol=1e-5)
    residuals = full_residuals(begun, windows, [0])[0]
    same = spliced_loss(begun, windows, residuals, 0, lambda h: h)
    assert same == pytest.approx(clean_loss(begun, windows), abs=1e-5)
    pool = Pool(256, torch.float32, "cpu")
    ways = (model, begun)
    keys = [StreamedResiduals(way, windows, seed=0, pool=pool).fingerprint for way in ways]
    assert keys[0] != keys[1]


def settings_of(folder: Path, **changes: object) -> dict[str, object]:
    write_text(folder / "text.jsonl")
    return {
        "model": str(save_model(folder / "model")),
        "text": str(folder / "text.jsonl"),
        "d_sae": 8,
        "seeds": 1,
        "tokens": 1024,
        "heldout": 1024,
        "context": 64,
        "batch": 128,
        **changes,
    }


def test_a_run_says_both_losses_when_the_model_is_first_read(tmp_path: Path) -> None:
    settings = parse_saes(**settings_of(tmp_path))
    rows = train_saes(settings, tmp_path / "run", SilentProgress())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["corpus"]["masked"] == {str(BOS): "<bos>", str(EOS): "<eos>"}
    assert (record["corpus"]["n_documents_read"], record["corpus"]["n_documents_empty"]) == (20, 0)
    known = record["models"][0]["beginning"]
    assert known["token"] == "<bos>" and known["begins"] and record["warnings"] == []
    assert rows[0]["loss_clean"] == pytest.approx(known["with_it"], abs=0.1)
    sae = tmp_path / "run" / "saes" / settings.name / "0"
    evaluation = evaluate_sae(EvaluationRecipe(sae=str(sae)), SilentProgress())
    assert evaluation.quality.loss_clean == pytest.approx(rows[0]["loss_clean"])
    assert evaluation.agrees is not False and not any("beginning" in n for n in evaluation.notes)
    without = evaluate_sae(EvaluationRecipe(sae=str(sae), bos="false"), SilentProgress())
    assert without.quality.loss_clean > rows[0]["loss_clean"] + 1


def test_a_run_that_was_told_to_read_without_says_what_it_misses(tmp_path: Path) -> None:
    settings = parse_saes(**settings_of(tmp_path, bos="false"))
    train_saes(settings, tmp_path / "run", SilentProgress())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (warning,) = record["warnings"]
    assert "misses its beginning" in warning and "'<bos>'" in warning
    sae = tmp_path / "run" / "saes" / settings.name / "0"
    evaluation = evaluate_sae(EvaluationRecipe(sae=str(sae)), SilentProgress())
    assert any("misses its beginning" in note and "'<bos>'" in note for note in evaluation.notes)
    other = parse_saes(**settings_of(tmp_path))
    with pytest.raises(InputError, match="bos"):  # another choice is another run
        train_saes(other, tmp_path / "run", SilentProgress())


def test_models_without_a_beginning_are_left_alone(tmp_path: Path, windows: TokenWindows) -> None:
    model = homolog.load(save_model(tmp_path / "model", begins=False))
    assert known_beginning(model.tokenizer) is None
    assert measure_beginning(model, windows) is None
    for name in ("zoo:transformer-s0", "zoo:mamba-s0"):
        model = homolog.load(name)
        text = pack(read_documents("zoo:demo"), model.tokenizer, 128, n_tokens=4096)
        beginning = measure_beginning(model, text)
        assert beginning is not None and not beginning.is_wrong
