"""Induction and associative recall on random tokens.

    induction            x ... A B x ... x A -> B      the last token repeats an earlier token A
    associative recall   k v k v A B k v ... A -> B    pairs of key and value, then one of the keys

All tokens of a prompt differ as far as the vocabulary allows; in any case A occurs only where it
was put and at the end, and B once, so that the answer is unambiguous.  What the corrupt prompt
changes:

    replace_B              B becomes a random token: the distractor, which the prompt then calls for
    replace_A              the earlier A becomes a random token: nothing before B is what ends it
    unrepeated             the last token (all repeated ones) becomes a random one
    unrepeated_replace_AB  the same, and A and B become random tokens as well
    unrelated              all of it: another prompt of random tokens, without a repeat
    repeat_another         the end repeats another place, and what follows there is the distractor

The clean prompts depend on the seed alone, not on the corruption: experiments with different
corruptions are paired.

Induction is that of [Wang 2025], "Towards Universality", arXiv 2410.06672; associative recall that
of [Arora 2023], "Zoology", arXiv 2312.04927.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from homolog.corpus.tasks.nearest import check_choice
from homolog.corpus.tasks.pairs import PromptPairs, check_count, last_position, ordinary_ids, seeded
from homolog.corpus.tasks.task import PromptTask
from homolog.errors import InputError
from homolog.record.circuits import (
    REPLACE_A,
    REPLACE_B,
    UNRELATED,
    UNREPEATED,
    UNREPEATED_REPLACE_AB,
)

CORRUPTIONS = (
    REPLACE_B,
    REPLACE_A,
    UNREPEATED,
    UNREPEATED_REPLACE_AB,
    UNRELATED,
    "repeat_another",
)
# tokens drawn for a prompt beyond its length: it takes tokens in place of A, B and the repeat
_SPARE = 2


def induction(
    vocabulary: Any,
    n_prompts: int,
    *,
    seed: int = 0,
    length: int = 64,
    corruption: str = REPLACE_B,
    first_index: int | None = None,
    repeat: int = 1,
) -> PromptPairs:
    """Random tokens whose last one repeats an earlier A; the answer is the B that followed it.

    vocabulary   a model, a tokenizer or token ids (see `ordinary_ids`)
    length       tokens of a prompt, at least 5
    corruption   one of `CORRUPTIONS`
    first_index  of A; None draws it uniformly from repeat - 1 ... length // 2 - 1
    repeat       tokens that are repeated: those that end with A.  With more than one the model can
                 find the place by more than the last token, which small models need

    The two prompts of [Wang 2025] are the default, and length=129 with first_index=0.  Positions:
    A, B (= A + 1), B+1, last.  Raises `InputError`.
    """
    latest = length - repeat - 3  # of A: B and another token come between it and the repeat
    if repeat < 1 or repeat - 1 > min(latest, length // 2 - 1) or length < 5:
        fits = f"{repeat} tokens, B, another token and the repeat must fit, A in the first half"
        remedy = f"Give {max(5, 2 * repeat + 2)} or more, and repeat=1 or more."
        raise InputError("length", length, fits, remedy)
    if first_index is not None and not repeat - 1 <= first_index <= latest:
        between = f"B and another token must come before the repeat in {length} tokens"
        requirement = f"A ends {repeat} tokens, and {between}"
        raise InputError("first_index", first_index, requirement, f"Give {repeat - 1} to {latest}.")
    check_count(n_prompts)
    generator = seeded("induction", seed)
    index = generator.integers(repeat - 1, min(latest, length // 2 - 1) + 1, n_prompts)
    if first_index is not None:
        index = np.full(n_prompts, first_index)
    return _pairs(
        "induction", ordinary_ids(vocabulary), index, length, repeat, corruption, generator, seed
    )


def associative_recall(
    vocabulary: Any,
    n_prompts: int,
    *,
    seed: int = 0,
    n_pairs: int = 16,
    corruption: str = "repeat_another",
) -> PromptPairs:
    """Pairs of random key and value, then one of the keys again; the answer is its value.

    Prompts have 2 n_pairs + 1 tokens.  Other arguments and positions as for `induction`; A is the
    key, B its value, and repeat_another asks for another key.  Raises `InputError`, also when the
    vocabulary is too small for keys and values that all differ.
    """
    check_count(n_prompts)
    ids, length = ordinary_ids(vocabulary), 2 * n_pairs + 1
    if n_pairs < 2:
        requirement = "there must be another key to mistake the key for"
        raise InputError("n_pairs", n_pairs, requirement, "Give 16.")
    if len(ids) < length + _SPARE:
        takes = f"keys and values must all differ, which takes {length + _SPARE} tokens"
        remedy = f"Give {(len(ids) - 1 - _SPARE) // 2} or fewer."
        raise InputError("n_pairs", n_pairs, f"{takes}; there are {len(ids)}", remedy)
    generator = seeded("associative recall", seed)
    index = 2 * generator.integers(0, n_pairs, n_prompts)
    return _pairs("associative_recall", ids, index, length, 1, corruption, generator, seed)


def _pairs(
    name: str,
    ids: Int64[np.ndarray, " id"],
    index: Int64[np.ndarray, " prompt"],
    length: int,
    repeat: int,
    corruption: str,
    generator: np.random.Generator,
    seed: int,
) -> PromptPairs:
    """Prompts whose last `repeat` tokens are those that end at `index`."""
    check_choice("corruption", corruption, CORRUPTIONS)
    n_first = 4 + repeat
    if len(ids) <= n_first:
        requirement = f"the prompts need more than {n_first} different tokens"
        raise InputError("vocabulary", f"{len(ids)} tokens", requirement, "Allow more tokens.")
    n = len(index)
    drawn = np.stack([_draw(generator, ids, length + _SPARE, n_first) for _ in range(n)])
    a, b, other_a, other_b = drawn[:, :4].T
    other_end, rest = drawn[:, 4:n_first], drawn[:, n_first:]
    prompt = np.arange(n)
    clean = np.empty((n, length), dtype=np.int64)
    free = np.ones((n, length), dtype=bool)
    free[prompt, index] = free[prompt, index + 1] = free[:, -repeat:] = False
    clean[free] = rest.reshape(-1)
    clean[prompt, index], clean[prompt, index + 1] = a, b
    back = np.arange(-repeat + 1, 1)
    clean[:, -repeat:] = clean[prompt[:, None], index[:, None] + back]

    corrupt, distractor = clean.copy(), other_b
    if corruption in (REPLACE_B, UNREPEATED_REPLACE_AB):
        corrupt[prompt, index + 1] = other_b
    if corruption in (REPLACE_A, UNREPEATED_REPLACE_AB):
        corrupt[prompt, index] = other_a
    if corruption in (UNREPEATED, UNREPEATED_REPLACE_AB):
        corrupt[:, -repeat:] = other_end
    if corruption == UNRELATED:
        corrupt = np.stack([_draw(generator, ids, length, n_first) for _ in range(n)])
    if corruption == "repeat_another":
        places = np.arange(
            repeat - 1, length - repeat - 1, 2 if name == "associative_recall" else 1
        )
        another = _another(generator, index, places)
        corrupt[:, -repeat:] = clean[prompt[:, None], another[:, None] + back]
        distractor = clean[prompt, another + 1]
    first = torch.from_numpy(index)
    positions = {"A": first, "B": first + 1, "B+1": first + 2, "last": last_position(n, length)}
    tokens = (torch.from_numpy(array.copy()) for array in (clean, corrupt, b, distractor))
    return PromptPairs(name, *tokens, positions=positions, seed=seed)


def _draw(generator: np.random.Generator, ids: np.ndarray, n: int, n_first: int) -> np.ndarray:
    """`n` tokens: all different when there are enough, else the first ones from all others."""
    if n <= len(ids):
        return generator.choice(ids, n, replace=False)
    first = generator.choice(ids, min(n, n_first), replace=False)
    return np.concatenate([first, generator.choice(np.setdiff1d(ids, first), n - len(first))])


def _another(generator: np.random.Generator, index: np.ndarray, places: np.ndarray) -> np.ndarray:
    """For each prompt one of `places` that is not A's.

    The one before A is left out too: what comes after it is A, no wrong answer to A.
    """
    allowed = (places != index[:, None]) & (places != index[:, None] - 1)
    return places[np.where(allowed, generator.random(allowed.shape), -1.0).argmax(axis=1)]


INDUCTION = PromptTask(
    make=induction,
    title="Induction",
    prompt="random tokens x ... A B x ... x A call for B",
    source="Wang et al. 2025, arXiv 2410.06672",
)
ASSOCIATIVE_RECALL = PromptTask(
    make=associative_recall,
    title="Associative recall",
    prompt="pairs of a random key and its value, then one of the keys, which calls for its value",
    source="Arora et al. 2023, arXiv 2312.04927",
)
