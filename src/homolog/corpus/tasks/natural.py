"""Induction in natural text: a pair of tokens A B that recurs where the text itself repeats it.

    clean    ... A B ... A     the text up to the second A; the answer is the B that came next
    corrupt  the same, with the first B replaced by another token of the corpus

Within a prompt A occurs only at these two places and B only at the first, and no special token is
in it, so that it is of one document.  Pairs that a bigram model would know need no induction: a
pair is left out when B follows more than `max_bigram` of the occurrences of A in the other windows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64

from homolog.corpus.documents import read_documents
from homolog.corpus.tasks.pairs import PromptPairs, check_count, last_position, seeded, tokenizer_of
from homolog.corpus.tasks.task import PromptTask
from homolog.corpus.tokenizers import fingerprint
from homolog.corpus.windows import TokenWindows, pack
from homolog.errors import InputError

CONTEXT, TEXT_TOKENS = 256, 1 << 21  # of text that is packed here


def natural_induction(
    vocabulary: Any,
    n_prompts: int,
    *,
    windows: TokenWindows | Path | str | None = None,
    seed: int = 0,
    length: int = 64,
    max_bigram: float = 0.25,
) -> PromptPairs:
    """Places of a text where a pair of tokens recurs, at most one from each window.

    vocabulary  a model or a tokenizer
    windows     the text as tokens (see `pack`), or its name for `read_documents`, "zoo:demo" for
                example: then its first 2 M tokens in windows of 256
    length      tokens of a prompt, at least 4 and less than the windows'; the pair recurs in them
    max_bigram  largest share of A's occurrences in the other windows that B follows

    The distractor is the token that replaces B in the corrupt prompt, drawn by frequency in the
    windows.  Positions: A, B, B+1, last.  Raises `InputError`, also for windows of another
    tokenizer, and when they have fewer such places, with their number.
    """
    check_count(n_prompts)
    text = _packed(tokenizer_of(vocabulary, "natural_induction"), windows)
    if not 4 <= length < text.context:
        requirement = f"it must be 4 to {text.context - 1}: the windows have {text.context} tokens"
        remedy = "Give a shorter length, or windows of a longer context."
        raise InputError("length", length, requirement, remedy)
    generator = seeded("natural induction", seed)
    previous = _previous(text.tokens)
    places = _places(text.tokens, text.mask, previous, length)
    places = places[_bigram_share(text.tokens, places) <= max_bigram]
    generator.shuffle(places)
    _, one_of_each_window = np.unique(places[:, 0], return_index=True)
    places = places[np.sort(one_of_each_window)]
    if len(places) < n_prompts:
        there = f"{len(text)} windows of {text.context} tokens have {len(places)}"
        requirement = f"{there} with a pair that recurs within {length} tokens"
        remedy = "Give more text, a longer length, a larger max_bigram, or ask for fewer prompts."
        raise InputError("n_prompts", n_prompts, requirement, remedy)
    window, end = places[:n_prompts].T
    start = end - length + 1
    clean = text.tokens[window[:, None], start[:, None] + np.arange(length)].astype(np.int64)
    answer = text.tokens[window, end + 1].astype(np.int64)
    first = torch.from_numpy(previous[window, end] - start)
    distractor = _replacements(generator, text, clean, answer)
    corrupt = clean.copy()
    corrupt[np.arange(n_prompts), first + 1] = distractor
    last = last_position(n_prompts, length)
    positions = {"A": first, "B": first + 1, "B+1": first + 2, "last": last}
    tokens = map(torch.from_numpy, (clean, corrupt, answer, distractor))
    return PromptPairs("natural_induction", *tokens, positions=positions, seed=seed)


def _packed(tokenizer: Any, windows: TokenWindows | Path | str | None) -> TokenWindows:
    """Windows of this tokenizer's tokens.  InputError where there are none, or of another's."""
    if windows is None:
        remedy = 'Give windows="FILE", or pack(read_documents("FILE"), tokenizer, context=256).'
        raise InputError("windows", None, "natural_induction takes its prompts from text", remedy)
    if not isinstance(windows, TokenWindows):
        documents = read_documents(windows)
        return pack(documents, tokenizer, CONTEXT, n_tokens=TEXT_TOKENS, fewer=True)
    if windows.tokenizer_fingerprint != fingerprint(tokenizer):
        theirs = f"tokenizer {windows.tokenizer_fingerprint[:8]}"
        requirement = f"the model has another tokenizer ({fingerprint(tokenizer)[:8]})"
        raise InputError("windows", theirs, requirement, "Pack the text with the model's own.")
    return windows


def _previous(tokens: Int[np.ndarray, "windows context"]) -> Int64[np.ndarray, "windows context"]:
    """Index of the previous occurrence of each token in its window; -1 where there is none."""
    order = np.argsort(tokens, axis=1, kind="stable")
    ordered = np.take_along_axis(tokens, order, axis=1)
    before = np.full(tokens.shape, -1, dtype=np.int64)
    before[:, 1:] = np.where(ordered[:, 1:] == ordered[:, :-1], order[:, :-1], -1)
    previous = np.empty_like(before)
    np.put_along_axis(previous, order, before, axis=1)
    return previous


def _places(
    tokens: Int[np.ndarray, "windows context"],
    mask: Bool[np.ndarray, "windows context"],
    previous: Int64[np.ndarray, "windows context"],
    length: int,
) -> Int64[np.ndarray, "place 2"]:
    """Window and index of the second A of each prompt of `length` tokens that could be made."""
    context = tokens.shape[1]
    end = np.arange(length - 1, context - 1)
    start = end - length + 1
    row = np.arange(len(tokens))[:, None]
    first = previous[:, end]
    # first = -1 reads the last token, and is refused by its first condition
    once_before = (first >= start) & (previous[row, first] < start)
    answer_once = (previous[:, end + 1] == first + 1) & (previous[row, first + 1] < start)
    special = np.pad(np.cumsum(~mask, axis=1), ((0, 0), (1, 0)))  # before each token
    ordinary = special[:, end + 2] == special[:, start]
    window, column = np.nonzero(once_before & answer_once & ordinary & (end - first >= 2))
    return np.stack([window, end[column]], axis=1)


def _bigram_share(
    tokens: Int[np.ndarray, "windows context"], places: Int64[np.ndarray, "place 2"]
) -> np.ndarray:
    """Share of A's occurrences outside a place's window that B follows; 0 where A has none."""
    size = int(tokens.max()) + 1
    window, end = places.T
    a = tokens[window, end].astype(np.int64)
    pair = a * size + tokens[window, end + 1]
    all_a = tokens[:, :-1].astype(np.int64)
    all_pairs = all_a * size + tokens[:, 1:]
    a_elsewhere = _count(all_a, a) - (all_a[window] == a[:, None]).sum(axis=1)
    pair_elsewhere = _count(all_pairs, pair) - (all_pairs[window] == pair[:, None]).sum(axis=1)
    return np.where(a_elsewhere > 0, pair_elsewhere / np.maximum(a_elsewhere, 1), 0.0)


def _count(everything: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How often each of `wanted` is in `everything`; each is in it at least once."""
    values, counts = np.unique(everything, return_counts=True)
    return counts[np.searchsorted(values, wanted)]


def _replacements(
    generator: np.random.Generator, windows: TokenWindows, clean: np.ndarray, answer: np.ndarray
) -> Int64[np.ndarray, " prompt"]:
    """A token for each prompt that is neither in it nor its answer, by frequency in the windows."""
    ordinary = windows.tokens[windows.mask].astype(np.int64)
    taken = np.concatenate([clean, answer[:, None]], axis=1)
    drawn = generator.choice(ordinary, len(clean))
    for _ in range(1000):
        clash = (taken == drawn[:, None]).any(axis=1)
        if not clash.any():
            return drawn
        drawn[clash] = generator.choice(ordinary, int(clash.sum()))
    requirement = f"there must be tokens outside a prompt of {clean.shape[1]}"
    remedy = "Give more text or a shorter length."
    raise InputError("windows", f"{len(np.unique(ordinary))} different tokens", requirement, remedy)


NATURAL_INDUCTION = PromptTask(
    make=natural_induction,
    title="Induction in natural text",
    prompt="text ... A B ... A that goes on with B, as it did before",
    source="pairs of tokens that recur in a text of yours",
)
