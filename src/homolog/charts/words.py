"""How numbers, counts, durations and lists are written for readers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import tomli_w

CLOSE = 0.7
"""A partner is called close when its correlation exceeds this, as in `share_above_07`."""

MISSING = "\N{EN DASH}"
_NUMBERS = re.compile(r"\[\n((?: {4}[\d.e+-]+,\n)+)\]")
"""An array of numbers over several lines of TOML, which reads better on one."""


def is_number(value: Any) -> bool:
    """True for a finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 2) -> str:
    """A measured value: fixed digits, a true minus sign; an en dash where it is undefined."""
    if not is_number(value):
        return MISSING
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "\N{MINUS SIGN}")


def integer(value: Any) -> str:
    """A count with thousands separated by a comma."""
    return f"{int(value):,}" if is_number(value) else MISSING


def percent(value: Any) -> str:
    """A share in 0..1 as a percentage: whole percents, one digit below 10 %."""
    if not is_number(value):
        return MISSING
    share = 100 * value
    if 0 < share < 0.1:
        return "<0.1%"
    return f"{share:.1f}%" if 0 < share < 9.95 else f"{share:.0f}%"


def level(value: float | None) -> str:
    """A share that somebody chose, such as a false discovery rate: 1%, 0.5%."""
    return MISSING if value is None else f"{100 * value:g}%"


def chance(value: Any) -> str:
    """A p or q value: three digits, and "<0.001" below."""
    return "<0.001" if is_number(value) and value < 0.001 else number(value, 3)


def interval(row: Mapping[str, Any], statistic: str, digits: int = 2) -> str:
    """The 95 % interval of a row's statistic; "no interval" where it is undefined."""
    ends = [row[f"{statistic}_{end}"] for end in ("lo", "hi")]
    known = all(is_number(end) for end in ends)
    return " to ".join(number(end, digits) for end in ends) if known else "no interval"


def seconds(value: Any) -> str:
    """A duration: 0.42 s, 12.3 s, 4 min 05 s, 2 h 10 min."""
    if not is_number(value):
        return MISSING
    if value < 59.95:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(value: Any) -> str:
    """Bytes in MiB or GiB."""
    if not is_number(value):
        return MISSING
    mebibytes = value / 2**20
    return f"{mebibytes:,.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.2f} GiB"


def as_toml(recipe: Mapping[str, Any]) -> str:
    """The recipe as TOML; keys without a value, which TOML does not have, are left out."""
    text = tomli_w.dumps(_without_null(recipe)).rstrip()
    return _NUMBERS.sub(lambda array: f"[{' '.join(array[1].split())[:-1]}]", text)


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_null(v) for key, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_null(item) for item in value if item is not None]
    return value
