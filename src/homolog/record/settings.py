"""Settings: frozen tables of values, each described once, right where its default stands.

A field's docstring is its help on the command line and its line in docs/settings.md; its type and
bounds are its check, in a recipe and on the command line alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from homolog.errors import InputError

Table = TypeVar("Table", bound="Settings")


class Settings(BaseModel):
    """A table of settings: values by name, frozen; unknown names are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    def __init_subclass__(cls, defaults: Mapping[str, Any] | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)

    @classmethod
    def __pydantic_init_subclass__(
        cls, defaults: Mapping[str, Any] | None = None, **more: Any
    ) -> None:
        """A subclass may have other defaults: `class Sae(Dictionaries, defaults={"lr": 1e-3})`."""
        super().__pydantic_init_subclass__(**more)
        for name, value in (defaults or {}).items():
            cls.model_fields[name].default = value
        if defaults:
            cls.model_rebuild(force=True)

    def values(self) -> dict[str, Any]:
        """As JSON values: what run.json holds."""
        return self.model_dump(mode="json")

    def changed(self: Table, **values: Any) -> Table:
        """These settings with other values; of a table, those of its keys that change."""
        own = self.values()
        merged = {
            key: own[key] | value if isinstance(value, dict) and own.get(key) else value
            for key, value in values.items()
        }
        return self.parse(own | merged)

    @classmethod
    def parse(cls: type[Table], values: Mapping[str, Any], source: str = "") -> Table:
        """Settings from values by name.

        source: says in errors where they came from.  InputError names the field, and for an unknown
        one the nearest that there is.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _input_error(cls, error, source) from error


def option(setting: str) -> str:
    """A setting as an option of the command line: "--d-sae"; of a number of things their name."""
    return f"--{setting.removeprefix('n_').replace('_', '-')}"


def meaning(field: FieldInfo) -> str:
    """A setting in words, on one line."""
    return " ".join((field.description or "").split())


def tables_in(annotation: Any) -> list[type[Settings]]:
    """The tables of settings that a field of this type holds."""
    own = isinstance(annotation, type) and issubclass(annotation, Settings)
    return [annotation] if own else [t for a in get_args(annotation) for t in tables_in(a)]


def page(table: type[BaseModel], name: str) -> str:
    """A table in Markdown, and those in it: docs/settings.md is made of these."""
    parts, inner = [f"## {name}\n\n{' '.join((table.__doc__ or '').split())}\n"], []
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in table.model_fields.items():
        if tables := tables_in(field.annotation):
            repeated = "[[{}]]" if "tuple" in str(field.annotation) else "[{}]"
            inner += [(each, repeated.format(key)) for each in tables]
            continue
        value = None if field.is_required() else field.get_default(call_default_factory=True)
        default = "required" if field.is_required() else _shown(value)
        words = meaning(field).replace("|", "\\|")
        lines.append(f"| {key} | {default} | {words} |")
    if len(lines) > 2:
        parts.append("\n".join(lines) + "\n")
    return "\n".join([*parts, *(page(each, title) for each, title in inner)])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value in (None, {}) else f"{value:,}" if isinstance(value, int) else str(value)


def _input_error(table: type[Settings], error: ValidationError, source: str) -> InputError:
    first = error.errors()[0]
    own = first.get("ctx", {}).get("error")
    path = [str(part) for part in first["loc"]]
    field = ".".join(path) or "the tables together"
    named = f"{source}: {field}" if source else field
    if isinstance(own, InputError):
        return own.about(named) if path[-1:] == [own.field] else own
    if first["type"] == "extra_forbidden":
        known = list(_inner(table, path[:-1]).model_fields)
        nearest = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.0)
        where = f"[{'.'.join(path[:-1])}]" if path[:-1] else "a recipe"
        remedy = f"Did you mean {nearest[0]!r}? " if nearest else ""
        remedy += f"Known: {', '.join(known)}."
        return InputError(named, first["input"], f"{where} has no such key", remedy)
    if first["type"] == "missing":
        return InputError(named, None, "it is required", "Add it.")
    message = first["msg"].removeprefix("Value error, ")
    return InputError(named, first["input"], f"it breaks a rule: {message}", "Change it.")


def _inner(table: type[Settings], path: list[str]) -> type[Settings]:
    for key in (key for key in path if not key.isdigit()):
        table = tables_in(table.model_fields[key].annotation)[0]
    return table
