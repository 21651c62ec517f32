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
from homolog.corpus import pack, read_documents
from homolog.features.beginnings import beginning_id, measure_beginning
from homolog.pipeline.recipes import parse_saes
from homolog.pipeline.sae import train_saes
from homolog.pipeline.sae_eval import evaluate_sae
from homolog.progress import SilentProgress
from homolog.record.recipe import EvaluationRecipe

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


def tokenizer(begins: bool) -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(WORDS)} | {"<bos>": BOS, "<eos>": EOS}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if begins:
        made.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", BOS)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<bos>" if begins else None, eos_token="<eos>"
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


def test_losses_without_and_with_the_beginning_are_those_of_the_planted_chain(
    tmp_path: Path,
) -> None:
    write_text(tmp_path / "text.jsonl")
    model = homolog.load(save_model(tmp_path / "model"))
    windows = pack(read_documents(tmp_path / "text.jsonl"), model.tokenizer, 64)
    beginning = measure_beginning(model, windows)
    assert beginning is not None and beginning.token == "<bos>"
    first = windows.tokens[:32, :-1]
    counted = windows.mask[:32, 1:-1]
    surprise = -np.log(chain())[first[:, :-1], np.minimum(first[:, 1:], WORDS - 1)]
    assert beginning.with_it == pytest.approx(surprise[counted].mean(), abs=1e-3)
    assert beginning.without > beginning.with_it + 1 and beginning.is_missed
    words = beginning.words("mine")
    assert (
        f"{beginning.with_it:.2f} nats" in words
        and f"at {beginning.without:.2f} without" in words
        and "'<bos>'" in words
    )


def test_a_run_says_both_losses_when_the_model_is_first_read(tmp_path: Path) -> None:
    write_text(tmp_path / "text.jsonl")
    settings = parse_saes(
        model=str(save_model(tmp_path / "model")),
        text=str(tmp_path / "text.jsonl"),
        d_sae=8,
        seeds=1,
        tokens=1024,
        heldout=1024,
        context=64,
        batch=128,
    )
    train_saes(settings, tmp_path / "run", SilentProgress())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["corpus"]["masked"] == {str(BOS): "<bos>", str(EOS): "<eos>"}
    assert (record["corpus"]["n_documents_read"], record["corpus"]["n_documents_empty"]) == (20, 0)
    (warning,) = record["warnings"]
    assert "misses its beginning" in warning and "'<bos>'" in warning
    sae = tmp_path / "run" / "saes" / settings.name / "0"
    evaluation = evaluate_sae(EvaluationRecipe(sae=str(sae)), SilentProgress())
    assert any("misses its beginning" in note and "'<bos>'" in note for note in evaluation.notes)


def test_models_without_a_beginning_are_left_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "text.jsonl")
    model = homolog.load(save_model(tmp_path / "model", begins=False))
    assert beginning_id(model.tokenizer) is None
    assert (
        measure_beginning(model, pack(read_documents(tmp_path / "text.jsonl"), model.tokenizer, 64))
        is None
    )
    for name in ("zoo:transformer-s0", "zoo:mamba-s0"):
        model = homolog.load(name)
        beginning = measure_beginning(
            model, pack(read_documents("zoo:demo"), model.tokenizer, 128, n_tokens=4096)
        )
        assert beginning is not None and not beginning.is_missed
