"""The models and the texts that ship with the package: names and places, nothing that loads them.

Two generations.  The pair: `transformer-*` are GPT-NeoX, `mamba-*` are Mamba-1 with twice as many
blocks, of 1 million parameters and a vocabulary of 1,024, made from English prose.  The families,
named as the field does: 2 to 3 million parameters, a vocabulary of 4,096, made from several domains
and languages.  All models of a generation share width, tokenizer, data and the order of the data,
and differ in architecture and in the seed of their weights.  The `-random` twins have the same
configuration and untrained weights; they are made from their seed when asked for, not stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homolog.errors import InputError

FOLDER = Path(__file__).parent
MODELS = FOLDER / "models"
TOKENIZER = FOLDER / "tokenizer"
TRAIN_TEXT = FOLDER / "text" / "train.jsonl.xz"
DEMO_TEXT = FOLDER / "text" / "demo.jsonl"
PREFIX = "zoo:"
TEXTS = {"zoo:demo": DEMO_TEXT, "zoo:domains": FOLDER / "text" / "domains.jsonl"}
"""Texts held out from the training: of the pair, and of the families."""


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    architecture: its model type in transformers.  seed draws its initial weights; trained is False
    for the untrained twins.  text: what was held out from its training.
    """

    name: str
    architecture: str
    seed: int
    trained: bool = True
    text: str = "zoo:demo"

    @property
    def folder(self) -> Path:
        """Where a trained one lies."""
        return MODELS / self.name

    @property
    def tokenizer(self) -> Path:
        """The folder of its tokenizer."""
        return self.folder if self.trained else TOKENIZER

    @property
    def config(self) -> dict[str, Any]:
        """The Hugging Face configuration of an untrained twin, as keyword arguments."""
        return {**_SHARED, **_CONFIGS[self.architecture]}


_SHARED = {"vocab_size": 1024, "hidden_size": 128, "bos_token_id": 0, "eos_token_id": 0}
_CONFIGS: dict[str, dict[str, Any]] = {
    "gpt_neox": {
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 512,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
        },
    },
    "mamba": {"num_hidden_layers": 8, "state_size": 16, "pad_token_id": 0, "use_cache": False},
}


_ENTRIES = (
    Entry("transformer-s0", "gpt_neox", 0),
    Entry("transformer-s1", "gpt_neox", 1),
    Entry("mamba-s0", "mamba", 100),
    Entry("mamba-s1", "mamba", 101),
    Entry("transformer-random", "gpt_neox", 1000, trained=False),
    Entry("mamba-random", "mamba", 1100, trained=False),
    Entry("gpt-neox-s0", "gpt_neox", 0, text="zoo:domains"),
    Entry("gpt-neox-s1", "gpt_neox", 1, text="zoo:domains"),
    Entry("llama-s0", "llama", 0, text="zoo:domains"),
    Entry("mamba-1-s0", "mamba", 0, text="zoo:domains"),
    Entry("mamba-1-s1", "mamba", 1, text="zoo:domains"),
    Entry("mamba-2-s0", "mamba2", 0, text="zoo:domains"),
    Entry("rwkv-4-s0", "rwkv", 0, text="zoo:domains"),
    Entry("gated-deltanet-s0", "qwen3_5_text", 0, text="zoo:domains"),
    Entry("falcon-h1-s0", "falcon_h1", 0, text="zoo:domains"),
    Entry("griffin-s0", "recurrent_gemma", 0, text="zoo:domains"),
    Entry("lfm2-s0", "lfm2", 0, text="zoo:domains"),
)


def names() -> list[str]:
    """All names, without the prefix `zoo:`."""
    return [e.name for e in _ENTRIES]


def entry(name: str) -> Entry:
    """The entry of that name, with or without the prefix.  InputError that lists the zoo."""
    bare = name.removeprefix(PREFIX)
    for e in _ENTRIES:
        if e.name == bare:
            return e
    raise InputError(
        "model", name, "the zoo has no model of that name", f"The zoo holds: {', '.join(names())}."
    )
