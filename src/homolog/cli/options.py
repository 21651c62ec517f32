"""Options of the command line from tables of settings: names, types, bounds, defaults and help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from copy import copy
from typing import Annotated, Any, get_type_hints

import typer
from pydantic.fields import FieldInfo

from homolog.record.recipe import Machine
from homolog.record.settings import Settings, meaning, option

Command = Callable[..., None]


Device = Annotated[str, typer.Option("--device", help=meaning(Machine.model_fields["device"]))]


def options_from(
    *tables: type[Settings], leave: Collection[str] = (), also: Mapping[str, FieldInfo] = {}
) -> Callable[[Command], Command]:
    """Give a command an option for each setting of tables; it takes them as one dict, `values`.

    leave: settings without an option.  also: more of them, by name; None where not given.
    """
    settings = [item for table in tables for item in table.model_fields.items()]
    fields = {name: field for name, field in settings if name not in leave} | dict(also)

    def decorate(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        own = inspect.signature(command).parameters.values()
        parameters = [p.replace(annotation=hints[p.name]) for p in own if p.name != "values"]
        parameters += [_parameter(name, field, name in also) for name, field in fields.items()]
        ordered = sorted(parameters, key=lambda p: p.default is not p.empty)

        def call(**given: Any) -> None:
            command(**{"values": {name: given.pop(name) for name in fields}, **given})

        call.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in ordered}
        call.__name__, call.__doc__ = command.__name__, command.__doc__
        return call

    return decorate


def kind_options() -> dict[str, FieldInfo]:
    """The settings of all kinds of dictionary by name, each saying whose it is and its default."""
    from homolog.dictionaries.kinds import KINDS

    fields: dict[str, FieldInfo] = {}
    kinds: dict[str, list[str]] = {}
    for kind in KINDS.values():
        for name, field in kind.Settings.model_fields.items():
            if name not in ("kind", "d_sae"):
                fields.setdefault(name, field)
                kinds.setdefault(name, []).append(f"{kind.name} [{field.get_default()}]")
    described = {}
    for name, field in fields.items():
        described[name] = copy(field)
        of_kinds = f"Of {', '.join(kinds[name])}: {meaning(field)}"
        described[name].description = of_kinds.removesuffix(": ")
    return described


def _parameter(name: str, field: FieldInfo, optional: bool) -> inspect.Parameter:
    flag, kind, default = option(name), field.annotation, None if optional else field.get_default()
    if kind is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    bounds: dict[str, Any] = {}
    for rule in field.metadata:
        if isinstance(least := getattr(rule, "ge", None), int | float):
            bounds["min"] = least
    shown = typer.Option(flag, help=meaning(field), show_default=default is not None, **bounds)
    annotation = Annotated[(kind | None) if optional else kind, shown]  # type: ignore[operator]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
