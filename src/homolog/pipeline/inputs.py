"""What a study reads, by its contents: text, weights, tokenizers, and dictionaries that it brings.

Nothing heavy is imported before contents are asked for: whether a finished run is of these inputs
is told from the states of their files.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

from homolog.corpus import TokenWindows, special_tokens
from homolog.corpus.documents import source_files
from homolog.errors import InputError
from homolog.record.atomic import sha256_bytes
from homolog.record.inputs import Input, contents_of
from homolog.record.recipe import Circuits
from homolog.reference import Reference, resolve
from homolog.zoo import catalog

WEIGHTS = "the weights of "


def text_input(source: str, contents: Callable[[], str]) -> Input:
    """The text.  contents: gives the hash of the tokens that are read of it."""
    return Input(f"the text {source}", source_files(source), contents)


def weights_input(ref: str, revision: str | None = None, *, random: bool = False) -> Input:
    """Configuration and weights of a model.  random: a rehearsal, whose weights follow from the
    configuration.
    """
    name, found = f"{WEIGHTS}{_at(ref, revision)}", resolve(ref)
    if found.untrained:
        contents = cache(partial(_fresh_contents, ref, revision, random))
        return Input(name, found.configuration_files, contents)
    if random and found.kind != "zoo":
        return Input(name, (), cache(partial(_random_contents, ref, revision)))
    if found.change:
        base = weights_input(ref.removesuffix(f"#{found.change}"), revision)
        return Input(name, base.files, cache(lambda: sha256_bytes(base.contents(), found.change)))
    if found.kind == "hub":
        return Input(name, (), cache(partial(_commit, ref, revision)))
    if not found.weight_files:
        return Input(name, (), partial(_untrained_contents, found))
    return Input(name, found.weight_files, cache(partial(contents_of, found.weight_files)))


def tokenizer_input(ref: str, revision: str | None = None, *, random: bool = False) -> Input:
    """By which a model's text becomes ids."""
    files = () if random else resolve(ref).tokenizer_files
    contents = cache(partial(_tokenizer_contents, ref, revision, random))
    return Input(f"the tokenizer of {_at(ref, revision)}", files, contents)


def saes_input(template: str) -> Input:
    """Dictionaries that a study brings; template: with {layer} for the block."""
    files: tuple[Path, ...] = ()
    if not template.startswith("hf:"):
        folder = Path(template.replace("{layer}", "*"))
        folders = Path(folder.anchor or ".").glob(str(folder.relative_to(folder.anchor)))
        files = tuple(sorted(f for place in folders for f in place.rglob("*") if f.is_file()))
    contents = cache(partial(_saes_contents, template, files))
    return Input(f"the dictionaries {template}", files, contents)


def task_inputs(settings: Circuits) -> list[Input]:
    """The files of prompts and of text that tasks of circuits are made of."""
    from homolog.corpus.tasks.asked import task_files

    return [
        Input(name, files, cache(partial(contents_of, files)))
        for name, files in task_files(settings).items()
    ]


def require_different(weights: Iterable[Input]) -> None:
    """InputError where two of the models are one and the same."""
    for a, b in itertools.combinations(weights, 2):
        if a.contents() == b.contents():
            raise InputError(
                "models",
                [item.name.removeprefix(WEIGHTS) for item in (a, b)],
                "they hold the same weights, and would be compared with themselves",
                "Name two different models.",
            )


def read_facts(whole: TokenWindows, tokenizer: Any) -> dict[str, Any]:
    """What was read and what of it counts nowhere: empty documents, and the masked tokens by id."""
    masked = {str(i): token for i, token in special_tokens(tokenizer).items()}
    return {"n_documents_read": whole.n_read, "n_documents_empty": whole.n_empty, "masked": masked}


def _at(ref: str, revision: str | None) -> str:
    """A model in words."""
    return ref if revision is None else f"{ref} at {revision}"


def _random_contents(ref: str, revision: str | None) -> str:
    from homolog.models.random_weights import random_configuration

    return sha256_bytes(
        "random weights", _at(ref, revision), random_configuration(ref, revision).to_json_string()
    )


def _fresh_contents(ref: str, revision: str | None, random: bool) -> str:
    from homolog.models.load import read_configuration

    values = read_configuration(ref, revision, random=random).to_dict()
    made = {key: value for key, value in values.items() if key != "transformers_version"}
    return sha256_bytes("fresh weights", ref, json.dumps(made, sort_keys=True, default=str))


def _commit(ref: str, revision: str | None) -> str:
    from homolog.models.load import commit_of

    return commit_of(ref, revision)


def _untrained_contents(found: Reference) -> str:
    entry = catalog.entry(found.name)
    return sha256_bytes(
        entry.architecture, json.dumps(entry.config, sort_keys=True), str(entry.seed)
    )


def _tokenizer_contents(ref: str, revision: str | None, random: bool) -> str:
    from homolog.corpus import fingerprint
    from homolog.models import load_tokenizer
    from homolog.models.beginning import template

    try:
        tokenizer = load_tokenizer(ref, revision, random=random)
    except InputError:
        return "none"
    ids, first = fingerprint(tokenizer), template(tokenizer)
    return sha256_bytes(ids, f"after {first}") if first else ids


def _saes_contents(template: str, files: tuple[Path, ...]) -> str:
    if not template.startswith("hf:"):
        return sha256_bytes(*(str(file.parent.name) + contents_of([file]) for file in files))
    from homolog.dictionaries.formats.registry import commit_of

    return commit_of(template.replace("{layer}", "0"))
