"""run.json: the record of a run, with its own SHA-256, and the refusal of another recipe's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homolog.errors import InputError
from homolog.record.atomic import read_json, sha256_bytes, write_json

FORMAT = 3  # 1 had no digest of the record; 2 tables without labels


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of a recipe's canonical JSON (sorted keys, no spaces)."""
    return _json_hash(recipe)


def _json_hash(values: Mapping[str, Any]) -> str:
    return sha256_bytes(json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False))


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record with its digest."""
    values = json.loads(json.dumps(record, allow_nan=False))  # as they will be read: string keys
    write_json(path, values | {"sha256": _json_hash(values)})


def read_record(path: Path) -> dict[str, Any] | None:
    """The record without its digest; None where it is damaged or of another format."""
    try:
        record = read_json(path)
        whole = isinstance(record, dict) and record.pop("sha256", None) == _json_hash(record)
    except (ValueError, OSError):
        return None
    tables = whole and all(isinstance(record.get(key), dict) for key in ("recipe", "stages"))
    return record if tables and record.get("format") == FORMAT else None


def other_recipe(path: Path, record: dict[str, Any], recipe: dict[str, Any]) -> InputError:
    """That the folder `path` holds a run of another recipe, and in which fields it differs."""
    there, here = _flat(record["recipe"]), _flat(recipe)
    different = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
    shown = [f"{key} ({there.get(key)!r} there, {here.get(key)!r} now)" for key in different[:5]]
    more = f" and {len(different) - 5} more" if len(different) > 5 else ""
    return InputError(
        "--out",
        str(path),
        f"it holds the run of another recipe ({recipe_hash(record['recipe'])[:8]}, this one is "
        f"{recipe_hash(recipe)[:8]}), which differs in {', '.join(shown)}{more}",
        "Give another --out, or run the recipe that this folder was started with.",
    )


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
