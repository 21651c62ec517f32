"""Our own facts in a file, under "homolog" in every format: read as written, or refused."""

from __future__ import annotations

from typing import Any

from homolog.dictionaries.formats.reading import File
from homolog.dictionaries.quality import Quality

_TYPES: dict[str, type] = {
    "model": str,
    "ref": str,
    "revision": str,
    "tokenizer": str,
    "hook": str,
    "label": str,
    "layer": int,
    "tokens_trained": int,
    "config": dict,
    "training": dict,
    "text": dict,
    "origin": dict,
    "quality": dict,
}
_WORDS = {str: "a name", int: "a whole number, 0 or above", dict: "an object"}


def own_facts(file: File, facts: Any) -> dict[str, Any]:
    """What stands under "homolog" in a file, without the kind; InputError where it is wrong."""
    if not isinstance(facts, dict):
        file.refuse("homolog", facts, "an object")
    for name, kind in _TYPES.items():
        value = facts.get(name)
        if value is not None and (type(value) is not kind or (kind is int and value < 0)):
            file.refuse(f"homolog.{name}", value, _WORDS[kind])
    if facts.get("quality") is not None:
        Quality.from_row(facts["quality"])
    return {name: value for name, value in facts.items() if name != "kind"}
