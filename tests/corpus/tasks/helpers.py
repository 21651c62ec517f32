"""Tokenizers that read the templates' English one token per word, and texts that repeat."""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from homolog.corpus import TokenWindows, fingerprint
from homolog.corpus.tasks import PromptPairs, make_task
from homolog.corpus.tasks.agreement import NOUNS as SUBJECTS
from homolog.corpus.tasks.agreement import VERBS
from homolog.corpus.tasks.indirect_object import NAMES, PLACES, TEMPLATES, THINGS
from homolog.corpus.tasks.years import NOUNS

IDS = range(10, 400)


def word_level(words: list[str]) -> PreTrainedTokenizerFast:
    """One token per word, the space before it included; digits in pairs."""
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(["<eot>", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eot>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d\d|[.,]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eot>", unk_token="<eot>")


def english() -> PreTrainedTokenizerFast:
    sentence = " ".join(TEMPLATES).replace(".", " .").replace(",", " ,").split()
    words = [word for word in sentence if not word.startswith("{")]
    words += [*NAMES, *PLACES, *THINGS, *NOUNS, "they", "lasted", "from", "year", "the", "of"]
    words += [word for pairs in (SUBJECTS, VERBS) for pair in pairs for word in pair]
    digits = [f"{n:02d}" for n in range(100)]
    beginning, spaced = [*words, *digits], [f" {word}" for word in (*words, *digits)]
    return word_level([*beginning, *spaced, ".", ",", "The"])


def at(tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    return tokens.gather(1, position[:, None])[:, 0]


WINDOW = [5, 1, 2, 6, 7, 1, 2, 8, 9, 9]  # "1 2" recurs: at index 5 the text calls for induction
TOKENIZER = english()


def windows(*rows: list[int], special: tuple[int, ...] = ()) -> TokenWindows:
    tokens = np.array(rows, dtype=np.int32)
    mask = ~np.isin(tokens, special)
    return TokenWindows(tokens, np.zeros_like(tokens), mask, fingerprint(TOKENIZER))


def recurring(text: TokenWindows, n_prompts: int, **options: float) -> PromptPairs:
    return make_task("natural_induction", TOKENIZER, n_prompts, windows=text, **options)
