"""Which token the windows of a study's models begin with, and what that is worth to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homolog.analyses.material import Material
from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.features.beginnings import Beginning, checked_beginning
from homolog.models import load_tokenizer
from homolog.models.beginning import chosen_beginning
from homolog.progress import Progress
from homolog.record.comparisons import StudyModel
from homolog.record.run_folder import RunFolder


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


def warnings_of_beginnings(name: str, beginning: Beginning | None, progress: Progress) -> list[str]:
    """In words, that a model reads text much better the other way than it is made to."""
    if beginning is None or not beginning.is_wrong:
        return []
    progress.note(f"Warning: {beginning.words(name)}.")
    return [beginning.words(name)]
