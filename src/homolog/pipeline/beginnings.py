"""Which token the windows of a study's models begin with, and what that is worth to each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from homolog.analyses.material import Material
from homolog.corpus import TokenWindows, pack, read_documents
from homolog.errors import InputError
from homolog.features.beginnings import SAMPLE_TOKENS, Beginning, checked_beginning
from homolog.models import LanguageModel, load_tokenizer
from homolog.models.beginning import chosen_beginning, known_beginning
from homolog.progress import Progress
from homolog.record.run_folder import RunFolder
from homolog.record.sides import StudyModel

CONTEXT = 256
"""Tokens of a window of text, where a run has no windows of its own."""
DEMO = "zoo:demo"


def read_beginnings(material: Material, windows: Mapping[str, TokenWindows]) -> dict[str, Any]:
    """The facts of each trained model's `Beginning`, by its name; None where it has no token.

    windows: of each model, by its name.  Untrained twins are read as their models are: what suits
    them says nothing.  Errors: InputError for a model that reads much better the other way than its
    tokenizer has it, and for windows that have no place for the token.
    """
    untrained = [model.name for model in material.models.untrained.values()]
    facts: dict[str, Any] = {}
    for model in material.models.all:
        if model.name not in untrained:
            loaded = material.model(model)
            own = windows[model.name]
            loaded.require_positions(own.context, "corpus.context")
            beginning = checked_beginning(model.name, loaded, own, model.bos)
            facts[model.name] = None if beginning is None else beginning.facts()
    return facts


def read_on_text(
    load_one: Callable[[StudyModel], LanguageModel], models: Sequence[StudyModel], source: str
) -> dict[str, Any]:
    """The facts of models of a run that has no windows of text, by name, on a sample of a text.

    None too where the tokenizer cuts no windows of it.  Errors: InputError for a model that reads
    much better the other way than its tokenizer has it.
    """
    facts: dict[str, Any] = {}
    for model in models:
        loaded = load_one(model)
        windows = _sample(loaded, source)
        if windows is None:
            facts[model.name] = None
            continue
        beginning = checked_beginning(model.name, loaded, windows, model.bos)
        facts[model.name] = None if beginning is None else beginning.facts()
    return facts


def _sample(model: LanguageModel, source: str) -> TokenWindows | None:
    if model.tokenizer is None or known_beginning(model.tokenizer) is None:
        return None
    context = min(CONTEXT, model.n_positions or CONTEXT)
    documents = read_documents(source, shuffle=False)
    try:
        return pack(documents, model.tokenizer, context, n_tokens=SAMPLE_TOKENS, fewer=True)
    except InputError:  # no token to put between documents, or all of the text is masked
        return None


def begins_with(models: Sequence[StudyModel]) -> dict[str, str | None]:
    """The token that windows of each model begin with, by its name; None for none.

    Errors: InputError where the setting asks for one, and the tokenizer has none.
    """
    tokens: dict[str, str | None] = {}
    for model in models:
        try:
            tokenizer: Any = load_tokenizer(model.ref, model.revision)
        except InputError:
            tokenizer = None
        first = chosen_beginning(model.ref, tokenizer, model.bos)
        tokens[model.name] = None if first is None else tokenizer.convert_ids_to_tokens(first)
    return tokens


def beginning_of(run: RunFolder, name: str) -> Beginning | None:
    """What the run knows of a model's beginning."""
    facts = run.record.get("beginnings", {}).get(name)
    return None if facts is None else Beginning(**facts)


def note_beginnings(run: RunFolder, facts: Mapping[str, Any], progress: Progress) -> None:
    """Record what is known of each model's beginning; say which models miss theirs."""
    run.note(beginnings=dict(facts))
    for name in facts:
        warnings_of_beginnings(name, beginning_of(run, name), progress)


def warnings_of_beginnings(name: str, beginning: Beginning | None, progress: Progress) -> list[str]:
    """In words, that a model reads text much better the other way than it is made to."""
    if beginning is None or not beginning.is_wrong:
        return []
    progress.note(f"Warning: {beginning.words(name)}.")
    return [beginning.words(name)]
