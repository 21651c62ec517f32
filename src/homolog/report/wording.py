"""Plain words for the comparisons, and how numbers are written on the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CLOSE = 0.7
"""A partner is called close when its correlation exceeds this, as in the summary's
`share_above_07`.
"""

MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class Comparison:
    """What one value of the tables' `comparison` column means to a reader."""

    name: str
    label: str  # "|" marks where a narrow axis may break the line
    role: str  # "result", "repeat" (in tables only), "baseline", "skyline" or "other"
    explanation: str

    @property
    def plain(self) -> str:
        return self.label.replace("|", " ")


COMPARISONS = (
    Comparison(
        "sae-seed",
        "Same model,|second SAE seed",
        "skyline",
        "the same model, dictionaries trained again from another seed: what dictionary learning "
        "alone allows",
    ),
    Comparison(
        "model-seed",
        "Same architecture,|second seed",
        "skyline",
        "a model of the same architecture trained from another seed: what training alone allows",
    ),
    Comparison("main", "The other|model", "result", "the result: the other model of the pair"),
    Comparison(
        "main-seed",
        "The other model,|second SAE seed",
        "repeat",
        "the result again with the other model's second dictionaries: what comes back is stable",
    ),
    Comparison(
        "random-model",
        "An untrained|model",
        "baseline",
        "a model with random weights and dictionaries trained on it: what the text alone gives",
    ),
    Comparison(
        "rotated",
        "A rotated|dictionary",
        "baseline",
        "the other model read through dictionary directions turned at random: what any directions "
        "give",
    ),
    Comparison(
        "tokens",
        "The current|token",
        "baseline",
        "one feature for each token of the vocabulary: what knowing the current token alone "
        "gives, without any model",
    ),
    Comparison(
        "neurons",
        "Neurons of the|other model",
        "result",
        "single neurons instead of dictionary features",
    ),
    Comparison(
        "neurons-random",
        "Neurons, random|baseline",
        "baseline",
        "neurons against their own random baseline",
    ),
)
"""In the order of every figure and table: skylines, the result, baselines; then neurons."""

_BY_NAME = {comparison.name: comparison for comparison in COMPARISONS}


def comparison_of(name: str) -> Comparison:
    """The comparison of that name; an unknown one is shown under its own name."""
    return _BY_NAME.get(
        name, Comparison(name, name, "other", "a comparison this report has no words for")
    )


def in_order(names: list[str]) -> list[str]:
    """Comparison names in the page's order, unknown ones last in alphabetical order."""
    known = list(_BY_NAME)
    return sorted(
        set(names), key=lambda name: (known.index(name) if name in _BY_NAME else len(known), name)
    )


def shown(names: list[str]) -> list[str]:
    """Those of the names that figures show, in the page's order; a repeat of the result stands in
    tables only.
    """
    return [name for name in in_order(names) if comparison_of(name).role != "repeat"]


def is_number(value: Any) -> bool:
    """True for a finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 2) -> str:
    """A measured value: fixed digits, a true minus sign, and an en dash for what is missing or
    undefined.
    """
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
    """A share that somebody chose, such as a false discovery rate, without digits of measurement:
    1%, 0.5%.
    """
    return MISSING if value is None else f"{100 * value:g}%"


def chance(value: Any) -> str:
    """A p or q value: three digits, and "<0.001" below."""
    return "<0.001" if is_number(value) and value < 0.001 else number(value, 3)


def listed(items: Sequence[str]) -> str:
    """Items as a sentence has them: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


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


def short_hash(value: Any) -> str:
    """The first twelve characters of a content hash."""
    return str(value)[:12] if value else MISSING


def as_toml(recipe: Mapping[str, Any]) -> str:
    """The recipe as TOML with dotted keys, one a line; keys without a value are left out."""
    return "\n".join(f"{key} = {value}" for key, value in _toml_lines(recipe, ""))


def _toml_lines(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        path = f"{prefix}{_toml_key(str(key))}"
        if isinstance(value, Mapping):
            yield from _toml_lines(value, f"{path}.")
        elif value is not None:
            yield path, _toml_value(value)


def _toml_key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isascii() and bare.isalnum() else json.dumps(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(
            f"{_toml_key(str(k))} = {_toml_value(v)}" for k, v in value.items() if v is not None
        )
        return f"{{ {inner} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value if item is not None)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, str | bool | int | float)
        else json.dumps(str(value))
    )
