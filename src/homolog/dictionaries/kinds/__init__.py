"""The kinds of dictionaries, one file for each."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from homolog.dictionaries.kinds import batchtopk, gated, jumprelu, relu, topk
from homolog.dictionaries.kinds.base import (
    Auxiliary,
    Encoder,
    Form,
    Kind,
    KindSettings,
    Rules,
    Start,
    Stored,
    Terms,
    keep_largest,
    pre_activations,
    squared_error,
)
from homolog.errors import InputError

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (relu.KIND, topk.KIND, batchtopk.KIND, jumprelu.KIND, gated.KIND)
}
"""By name; `register` adds those from outside."""

__all__ = [
    "KINDS",
    "Auxiliary",
    "Encoder",
    "Form",
    "Kind",
    "KindSettings",
    "Rules",
    "Start",
    "Stored",
    "Terms",
    "carrier",
    "keep_largest",
    "kind_of",
    "parse",
    "pre_activations",
    "register",
    "squared_error",
]


def register(kind: Kind) -> Kind:
    """Make a kind known, for this process.  InputError where another one has its name."""
    if KINDS.get(kind.name, kind) is not kind:
        raise InputError("kind", kind.name, "another kind has this name", "Give it its own.")
    KINDS[kind.name] = kind
    return kind


def kind_of(name: object) -> Kind:
    """The kind of this name.  InputError where there is none."""
    if isinstance(name, str) and name in KINDS:
        return KINDS[name]
    near = difflib.get_close_matches(str(name), KINDS, n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else "Name one of these."
    raise InputError("kind", name, f"it must be one of {', '.join(KINDS)}", remedy)


def carrier(form: Form) -> Kind:
    """The kind as which files of other libraries hold every dictionary of this form."""
    return next(kind for kind in KINDS.values() if kind.form == form and kind.carries)


def parse(settings: Mapping[str, Any]) -> KindSettings:
    """Settings by name, "kind" among them.

    InputError for those that cannot be, with the nearest known name.
    """
    kind = kind_of(settings.get("kind"))
    try:
        return kind.Settings.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        own = first.get("ctx", {}).get("error")
        if isinstance(own, InputError):
            raise own from None
        field = str(first["loc"][-1]) if first["loc"] else "kind"
        requirement, remedy = f"it breaks a rule: {first['msg']}", "Change it."
        if first["type"] == "extra_forbidden":
            known = list(kind.Settings.model_fields)
            near = difflib.get_close_matches(field, known, n=1, cutoff=0.0)
            requirement = f"the kind {kind.name} has no such setting"
            remedy = f"Did you mean {near[0]!r}? Known: {', '.join(known)}."
        raise InputError(field, first["input"], requirement, remedy) from error
