"""Users' own clean and corrupt prompts, from JSONL: one object per line.

    {"clean": "Paris is in", "corrupt": "Rome is in", "answer": " France", "distractor": " Italy"}

The distractor may be left out, in all lines.  Lists of token ids may stand in place of the texts
(an id in place of the answer).  All prompts of a file have the same number of tokens, so that
positions mean the same in all; a file with several lengths is refused, with their counts.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from homolog.corpus.tasks.nearest import known_names
from homolog.corpus.tasks.pairs import PromptPairs, last_position, ordinary_ids, tokenizer_of
from homolog.corpus.tasks.texts import commonest, continuation, encode, shown
from homolog.errors import InputError

_REQUIRED = ("clean", "corrupt", "answer")
_KEYS = (*_REQUIRED, "distractor")
_EXAMPLE = '{"clean": "...", "corrupt": "...", "answer": " word", "distractor": " word"}'


def read_pairs(path: Path | str, vocabulary: Any) -> PromptPairs:
    """The prompts of a JSONL file, as the module's text describes it.

    vocabulary  a model or a tokenizer; for files of token ids also a model without tokenizer, or
                the ids themselves

    The task's name is the file's.  Positions: last.  Raises `InputError`, with file and line, for
    what is not JSON, missing and unknown keys, clean and corrupt prompts of different lengths,
    answers that are not one token.
    """
    try:
        path = Path(path).expanduser()
        # JSON may hold other characters that end a line
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError, RuntimeError) as error:
        requirement = f"it must be a JSONL file in UTF-8 ({error})"
        raise _wrong(str(path), requirement, "Check the path.") from error
    ids = _Ids(vocabulary)
    numbered = [(f"{path}:{number}", line) for number, line in enumerate(lines, start=1)]
    written = [(place, line) for place, line in numbered if line.strip()]
    rows = [_Line(ids, place, line).tokens() for place, line in written]
    if not rows:
        raise _wrong(str(path), "it must have at least one prompt", f"Write {_EXAMPLE} on a line.")
    _check_alike([place for place, _ in written], rows)
    data = {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}
    distractor = data["distractor"][:, 0] if "distractor" in data else None
    last = last_position(len(rows), data["clean"].shape[1])
    return PromptPairs(
        path.stem, data["clean"], data["corrupt"], data["answer"][:, 0], distractor, {"last": last}
    )


def _check_alike(places: list[str], rows: list[dict[str, list[int]]]) -> None:
    """InputError unless all rows have one length, and all or none a distractor."""
    lengths = [len(row["clean"]) for row in rows]
    if len(set(lengths)) > 1:
        common = commonest(lengths)
        other = next(at for at, length in zip(places, lengths, strict=True) if length != common)
        numbers = sorted(Counter(lengths).items())
        counts = ", ".join(f"{n} of {length} tokens" for length, n in numbers)
        raise _wrong(
            other,
            f"all prompts of a file must have the same number of tokens; here are {counts}",
            "Put prompts of each length into a file of their own.",
        )
    without = [at for at, row in zip(places, rows, strict=True) if "distractor" not in row]
    if without and len(without) < len(rows):
        requirement = "it has no distractor, and other lines have one"
        raise _wrong(without[0], requirement, "Give one in all lines, or in none.")


class _Ids:
    """Token ids of texts, and which there are."""

    def __init__(self, vocabulary: Any) -> None:
        self._vocabulary = vocabulary

    @cached_property
    def ordinary(self) -> set[int]:
        return set(ordinary_ids(self._vocabulary).tolist())

    @property
    def tokenizer(self) -> Any:
        return tokenizer_of(self._vocabulary, "a task of texts")


class _Line:
    """A line of the file, checked as its texts become tokens."""

    def __init__(self, ids: _Ids, place: str, line: str) -> None:
        self._ids, self._place = ids, place
        self._fields = self._object(line)

    def tokens(self) -> dict[str, list[int]]:
        """Token ids of each key: of the prompts, and one of the answer and the distractor."""
        self._check_keys()
        row = {key: self._prompt(key) for key in ("clean", "corrupt")}
        n_clean, n_corrupt = map(len, row.values())
        if n_clean != n_corrupt:
            raise self._wrong(
                f"clean has {n_clean} tokens and corrupt {n_corrupt}; they must have as many"
                f"{self._shown_prompts()}",
                "Change words so that both have the same number of tokens.",
            )
        if row["clean"] == row["corrupt"]:
            raise self._wrong("clean and corrupt are the same prompt", "Let them differ.")
        for key in ("answer", "distractor"):
            if key in self._fields:
                row[key] = [self._answer(key)]
        if row.get("distractor") == row["answer"]:
            raise self._wrong("the distractor is the answer", "Give a wrong answer, or none.")
        return row

    def _object(self, line: str) -> dict[str, Any]:
        try:
            value = json.loads(line)
            # JSON can name halves of characters, which no text has
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            requirement = f"the line must be a JSON object ({error})"
            raise self._wrong(requirement, "Mend or remove it.") from error
        if not isinstance(value, dict):
            requirement = f"the line must be a JSON object, not {value!r}"
            raise self._wrong(requirement, f"Write {_EXAMPLE}.")
        return value

    def _check_keys(self) -> None:
        for key in self._fields:
            if key not in _KEYS:
                raise self._wrong(f"its key {key!r} is not known", known_names(key, _KEYS))
        if missing := [key for key in _REQUIRED if key not in self._fields]:
            raise self._wrong(f"it lacks {' and '.join(missing)}", f"Write {_EXAMPLE}.")

    def _prompt(self, key: str) -> list[int]:
        value = self._fields[key]
        if isinstance(value, str) and value:
            (ids,) = encode(self._ids.tokenizer, [value])
            return ids
        if isinstance(value, list) and value:
            return [self._known(key, token) for token in value]
        requirement = f"{key} must be a text or a list of token ids, not empty"
        raise self._wrong(requirement, "Mend that line.")

    def _answer(self, key: str) -> int:
        value, clean = self._fields[key], self._fields["clean"]
        if not isinstance(value, str):
            alone = isinstance(value, list) and len(value) == 1
            return self._known(key, value[0] if alone else value)
        tokenizer, text = self._ids.tokenizer, clean if isinstance(clean, str) else ""
        ids = continuation(tokenizer, text, value)
        if len(ids) == 1:
            return ids[0]
        remedy = "Choose a word that is one token."
        if not value.startswith(" ") and len(continuation(tokenizer, text, f" {value}")) == 1:
            remedy = f"Write it with a space before it: {f' {value}'!r}."
        reads = f"the tokenizer reads {shown(tokenizer, value)}"
        raise self._wrong(f"{key} must be one token after the prompt; {reads}", remedy)

    def _known(self, key: str, token: Any) -> int:
        known = self._ids.ordinary
        if not isinstance(token, int) or isinstance(token, bool) or token not in known:
            raise self._wrong(
                f"{key} holds {token!r}, which is no token id of the model, or a special one",
                f"Use ids from {min(known)} to {max(known)}.",
            )
        return token

    def _shown_prompts(self) -> str:
        texts = [self._fields[key] for key in ("clean", "corrupt")]
        if not all(isinstance(text, str) for text in texts):
            return ""
        return ": " + "; ".join(shown(self._ids.tokenizer, text) for text in texts)

    def _wrong(self, requirement: str, remedy: str) -> InputError:
        return _wrong(self._place, requirement, remedy)


def _wrong(place: str, requirement: str, remedy: str) -> InputError:
    return InputError("task", place, requirement, remedy)
