"""run.json: the record of a run, with its own SHA-256, and the refusal of another recipe's.

A run goes on with another recipe only where that differs in how what was measured is judged, or in
words (`judges`).  The record then says what it was judged by before.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homolog.errors import InputError
from homolog.record.atomic import read_json, sha256_bytes, write_json

FORMAT = 3  # 1 had no digest of the record; 2 tables without labels
GATES = "gates."
JUDGING = (
    "margin",
    "control_credit",
    "control_gap",
    "rival_ratio",
    "least_documents",
    "fdr",
    "resamples",
)
"""Keys of [matching] that only say how matches are judged once they are found."""
_MAY_CHANGE = {"name", *(f"matching.{key}" for key in JUDGING)}


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


def judges(key: str) -> bool:
    """Whether a recipe's key ("gates.dead_share") may be another one when a run goes on."""
    return key in _MAY_CHANGE or key.startswith(GATES)


def judging_settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe (JSON values) judges by, by key; not its words."""
    return {k: v for k, v in sorted(_flat(recipe).items()) if judges(k) and k != "name"}


def judged_anew(path: Path, record: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """The record of the run in the folder `path` with a recipe that judges it otherwise.

    Its `judged` says, for each time, when, the hash of the recipe before, and what the settings
    that changed were.  Raises InputError where another key differs.
    """
    there = _flat(record["recipe"])
    different = _different(there, _flat(recipe))
    if not different or not all(map(judges, different)):
        raise other_recipe(path, record, recipe)
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "recipe_hash": record["recipe_hash"],
        "was": {key: there.get(key) for key in different},
    }
    judged = [*record.get("judged", []), entry]
    return record | {"recipe": recipe, "recipe_hash": recipe_hash(recipe), "judged": judged}


def other_recipe(path: Path, record: dict[str, Any], recipe: dict[str, Any]) -> InputError:
    """That the folder `path` holds a run of another recipe, and in which fields it differs."""
    there, here = _flat(record["recipe"]), _flat(recipe)
    different = sorted(_different(there, here), key=judges)  # those that are refused first
    shown = [f"{key} ({there.get(key)!r} there, {here.get(key)!r} now)" for key in different[:5]]
    more = f" and {len(different) - 5} more" if len(different) > 5 else ""
    remedy = "Give another --out, or run the recipe that this folder was started with."
    if "matching" in record["recipe"]:
        remedy += f" Only name, [gates] and, of [matching], {', '.join(JUDGING)} may change."
    return InputError(
        "--out",
        str(path),
        f"it holds the run of another recipe ({recipe_hash(record['recipe'])[:8]}, this one is "
        f"{recipe_hash(recipe)[:8]}), which differs in {', '.join(shown)}{more}",
        remedy,
    )


def _different(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
