"""Users' own clean and corrupt prompts, from JSONL: one object per line.

    {"clean": "Paris is in", "corrupt": "Rome is in", "answer": " France", "distractor": " Italy"}

The distractor may be left out, in all lines.  Lists of token ids may stand in place of the texts
(an id in place of the answer).  All prompts of a file have the same number of tokens, so that
positions mean the same in all; a file with several lengths is refused, with their counts.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from homolog.corpus.tasks.nearest import known_names
from homolog.corpus.tasks.pairs import PromptPairs, last_position, ordinary_ids, tokenizer_of
from homolog.corpus.tasks.texts import continuation, encode, shown
from homolog.errors import InputError

_REQUIRED = ("clean", "corrupt", "answer")
_KEYS = (*_REQUIRED, "distractor")


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
        raise InputError(
            "task", str(path), f"it must be a JSONL file in UTF-8 ({error})", "Check the path."
        ) from error
    reader = _Reader(vocabulary)
    rows: list[tuple[str, dict[str, list[int]]]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{path}:{number}"
            rows.append((place, reader.row(place, _object(place, line))))
    if not rows:
        raise InputError(
            "task", str(path), "it must have at least one prompt", f"Write {_example()} on a line."
        )
    lengths = Counter(len(row["clean"]) for _, row in rows)
    if len(lengths) > 1:
        common = lengths.most_common(1)[0][0]
        place = next(place for place, row in rows if len(row["clean"]) != common)
        counts = ", ".join(f"{n} of {length} tokens" for length, n in sorted(lengths.items()))
        raise InputError(
            "task",
            place,
            f"all prompts of a file must have the same number of tokens; here are {counts}",
            "Put prompts of each length into a file of their own.",
        )
    with_distractor = ["distractor" in row for _, row in rows]
    if any(with_distractor) and not all(with_distractor):
        raise InputError(
            "task",
            rows[with_distractor.index(False)][0],
            "it has no distractor, and other lines have one",
            "Give one in all lines, or in none.",
        )
    data = {key: torch.tensor([row[key] for _, row in rows]) for key in rows[0][1]}
    distractor = data["distractor"][:, 0] if "distractor" in data else None
    last = last_position(len(rows), data["clean"].shape[1])
    return PromptPairs(
        path.stem, data["clean"], data["corrupt"], data["answer"][:, 0], distractor, {"last": last}
    )


class _Reader:
    """Checks objects and turns their texts into tokens."""

    def __init__(self, vocabulary: Any) -> None:
        self._vocabulary = vocabulary
        self._known: set[int] | None = None

    def row(self, place: str, fields: dict[str, Any]) -> dict[str, list[int]]:
        """Token ids of each key: of the prompts, and one of the answer and the distractor."""
        _check_keys(place, fields)
        row = {key: self._prompt(place, key, fields[key]) for key in ("clean", "corrupt")}
        if len(row["clean"]) != len(row["corrupt"]):
            raise InputError(
                "task",
                place,
                f"clean has {len(row['clean'])} tokens and corrupt {len(row['corrupt'])}; they "
                "must have as many"
                f"{self._tokens_shown(fields)}",
                "Change words so that both have the same number of tokens.",
            )
        if row["clean"] == row["corrupt"]:
            raise InputError(
                "task", place, "clean and corrupt are the same prompt", "Let them differ."
            )
        for key in ("answer", "distractor"):
            if key in fields:
                row[key] = [self._answer(place, key, fields[key], fields["clean"])]
        if row.get("distractor") == row["answer"]:
            raise InputError(
                "task", place, "the distractor is the answer", "Give a wrong answer, or none."
            )
        return row

    def _prompt(self, place: str, key: str, value: Any) -> list[int]:
        if isinstance(value, str) and value:
            (ids,) = encode(tokenizer_of(self._vocabulary, "a task of texts"), [value])
            return ids
        if isinstance(value, list) and value:
            return [self._id(place, key, token) for token in value]
        raise InputError(
            "task",
            place,
            f"{key} must be a text or a list of token ids, not empty",
            "Mend that line.",
        )

    def _answer(self, place: str, key: str, value: Any, clean: Any) -> int:
        if not isinstance(value, str):
            one = value[0] if isinstance(value, list) and len(value) == 1 else value
            return self._id(place, key, one)
        tokenizer = tokenizer_of(self._vocabulary, "a task of texts")
        text = clean if isinstance(clean, str) else ""
        ids = continuation(tokenizer, text, value)
        if len(ids) == 1:
            return ids[0]
        spaced = not value.startswith(" ") and len(continuation(tokenizer, text, f" {value}")) == 1
        raise InputError(
            "task",
            place,
            f"{key} must be one token after the prompt; the tokenizer reads "
            f"{shown(tokenizer, value)}",
            f"Write it with a space before it: {f' {value}'!r}."
            if spaced
            else "Choose a word that is one token.",
        )

    def _id(self, place: str, key: str, token: Any) -> int:
        if self._known is None:
            self._known = set(ordinary_ids(self._vocabulary).tolist())
        if not isinstance(token, int) or isinstance(token, bool) or token not in self._known:
            raise InputError(
                "task",
                place,
                f"{key} holds {token!r}, which is no token id of the model, or a special one",
                f"Use ids from {min(self._known)} to {max(self._known)}.",
            )
        return token

    def _tokens_shown(self, fields: dict[str, Any]) -> str:
        if not all(isinstance(fields[key], str) for key in ("clean", "corrupt")):
            return ""
        tokenizer = tokenizer_of(self._vocabulary, "a task of texts")
        return f": {shown(tokenizer, fields['clean'])}; {shown(tokenizer, fields['corrupt'])}"


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
        # JSON can name halves of characters, which no text has
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(
            "task", place, f"the line must be a JSON object ({error})", "Mend or remove it."
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            "task", place, f"the line must be a JSON object, not {value!r}", f"Write {_example()}."
        )
    return value


def _check_keys(place: str, fields: dict[str, Any]) -> None:
    for key in fields:
        if key not in _KEYS:
            remedy = known_names(key, _KEYS)
            raise InputError("task", place, f"its key {key!r} is not known", remedy)
    if missing := [key for key in _REQUIRED if key not in fields]:
        raise InputError("task", place, f"it lacks {' and '.join(missing)}", f"Write {_example()}.")


def _example() -> str:
    return '{"clean": "...", "corrupt": "...", "answer": " word", "distractor": " word"}'
