"""Which models have path patching: those whose mixers are described."""

from __future__ import annotations

from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.decoder import Decoder


def require_paths(model: LanguageModel) -> Decoder:
    """The model, where its mixers are known; InputError where it has no path patching."""
    if isinstance(model, Decoder) and model.mixers():
        return model
    requirement = f"{model.architecture} has no path patching: its mixers are not described"
    remedy = "docs/architectures.md lists the architectures that have it."
    raise InputError("model", model.name, requirement, remedy)
