"""Clean and corrupt prompts with their answers: the data of every circuit analysis.

The clean prompt calls for the answer.  The corrupt prompt differs from it in the one thing whose
path through the model is asked for, and calls for the distractor or for nothing in particular.  All
prompts of a batch have one length; none is padded, so that a position means the same in a recurrent
model as in a Transformer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from homolog.corpus.tokenizers import special_ids
from homolog.errors import InputError
from homolog.models.base import LanguageModel


@dataclass(frozen=True, eq=False)
class PromptPairs:
    """A batch of clean and corrupt prompts.  `pairs[a:b]` and `pairs[indices]` are some of them."""

    name: str
    """Of the task, for example "induction"."""

    clean: Int64[Tensor, "prompt position"]
    """Token ids of the clean prompts.  The answer is what comes after the last one."""

    corrupt: Int64[Tensor, "prompt position"]
    """Token ids of the corrupt prompts, of the same length."""

    answer: Int64[Tensor, " prompt"]
    """Token that is right after the clean prompt."""

    distractor: Int64[Tensor, " prompt"] | None
    """Wrong token for the logit difference: what the corrupt prompt calls for, or a natural one."""

    positions: dict[str, Int64[Tensor, " prompt"]] = field(default_factory=dict)
    """Named positions, one per prompt, 0 first.  Every task has "last"."""

    seed: int | None = None
    """What the prompts were drawn from; None when they were read from a file."""

    choices: Int64[Tensor, " choice"] | None = None
    """Tokens of which several may be right, such as two-digit years; None where one answer is."""

    right: Bool[Tensor, "prompt choice"] | None = None
    """Which choices are right; the other choices are wrong."""

    n_begun: int = 0
    """Tokens before the prompts proper, which all begin with them: 1 where `begun`."""

    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Words that the task could not use with this tokenizer, which splits them, by their kind."""

    def __post_init__(self) -> None:
        n, length = self.clean.shape
        assert self.corrupt.shape == (n, length) and self.answer.shape == (n,)
        assert self.distractor is None or self.distractor.shape == (n,)
        assert (self.choices is None) == (self.right is None)
        if self.choices is not None and self.right is not None:
            assert self.right.shape == (n, len(self.choices))
        for name, position in self.positions.items():
            inside = position.shape == (n,) and bool(((position >= 0) & (position < length)).all())
            assert inside, f"position {name!r} lies outside the prompts"

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def length(self) -> int:
        """Tokens of a prompt."""
        return self.clean.shape[1]

    @property
    def dropped_words(self) -> str:
        """What was dropped, in words: "name: Alice, Amy; place: garden"; "" for nothing."""
        kinds = [f"{kind}: {', '.join(words)}" for kind, words in self.dropped.items() if words]
        return "; ".join(kinds)

    def begun(self, bos: int | None) -> PromptPairs:
        """The same prompts after the token that a model's windows begin with; None: as they are."""
        if bos is None:
            return self
        first = torch.full((len(self), 1), bos)
        return replace(
            self,
            clean=torch.cat([first, self.clean], dim=1),
            corrupt=torch.cat([first, self.corrupt], dim=1),
            positions={name: position + 1 for name, position in self.positions.items()},
            n_begun=self.n_begun + 1,
        )

    def __getitem__(self, prompts: slice | Tensor) -> PromptPairs:
        """Some of the prompts, by slice, or by an int64 or bool tensor."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        per_prompt = ("clean", "corrupt", "answer", "distractor", "right")
        some = {name: own[name][prompts] for name in per_prompt if own[name] is not None}
        return replace(self, **some, positions={k: v[prompts] for k, v in self.positions.items()})


def ordinary_ids(vocabulary: Any) -> Int64[np.ndarray, " id"]:
    """Token ids that prompts may hold, ascending and without special tokens.

    vocabulary  a `LanguageModel` (ids that its tokenizer knows and its embedding holds; all rows of
                the embedding when it has no tokenizer), a Hugging Face tokenizer, or the ids
    """
    if isinstance(vocabulary, LanguageModel):
        rows = vocabulary.hf.get_input_embeddings().num_embeddings
        if vocabulary.tokenizer is None:
            return np.arange(rows, dtype=np.int64)
        ids = ordinary_ids(vocabulary.tokenizer)
        return ids[ids < rows]
    if hasattr(vocabulary, "get_vocab"):
        known = np.unique(np.fromiter(vocabulary.get_vocab().values(), dtype=np.int64))
        return np.setdiff1d(known, special_ids(vocabulary))
    ids = np.asarray(vocabulary)
    whole_numbers = ids.ndim == 1 and ids.dtype.kind in "iu"
    if not whole_numbers or len(np.unique(ids)) != len(ids) or (ids < 0).any():
        requirement = "they must be a list of different non-negative integers"
        remedy = "Give a model, a tokenizer, or such a list."
        raise InputError("token ids", f"{ids.dtype} of shape {ids.shape}", requirement, remedy)
    return np.sort(ids).astype(np.int64)


def tokenizer_of(vocabulary: Any, task: str) -> Any:
    """The tokenizer of a model, or the tokenizer itself.  InputError when there is none."""
    tokenizer = vocabulary.tokenizer if isinstance(vocabulary, LanguageModel) else vocabulary
    if not hasattr(tokenizer, "get_vocab"):
        name = getattr(vocabulary, "name", type(vocabulary).__name__)
        requirement = f"{task} is made from text, which needs a tokenizer"
        save = "Save the tokenizer beside the model's weights"
        remedy = f"{save}, or choose induction, which needs none."
        raise InputError("tokenizer", name, requirement, remedy)
    return tokenizer


def last_position(n_prompts: int, length: int) -> Int64[Tensor, " prompt"]:
    """The index of the last token, once per prompt."""
    return torch.full((n_prompts,), length - 1)


def check_count(n_prompts: int) -> None:
    """InputError unless `n_prompts` is at least 1."""
    if n_prompts < 1:
        raise InputError("n_prompts", n_prompts, "a task has at least one prompt", "Give 256.")


def seeded(task: str, seed: int) -> np.random.Generator:
    """The generator of a task's draws, kept apart from other draws with the same seed."""
    if seed < 0:
        raise InputError("seed", seed, "a seed is 0 or more", "Give 0.")
    return np.random.default_rng([int.from_bytes(task.encode(), "little"), seed])
