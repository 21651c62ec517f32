"""One message for every name that must be one of a few: it names the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from homolog.errors import InputError


def check_choice(field: str, value: str, known: Iterable[str]) -> None:
    """InputError, with the nearest and all known names, unless `value` is one of `known`."""
    names = list(known)
    if value not in names:
        raise InputError(field, value, "it must be one of those known", known_names(value, names))


def known_names(value: str, names: Iterable[str]) -> str:
    """The remedy for a name that is none of `names`: the nearest of them, and all."""
    names = list(names)
    near = difflib.get_close_matches(value, names, n=1)
    return (f"Did you mean {near[0]!r}? " if near else "") + f"Known: {', '.join(names)}."
