"""Addresses of the pages of a report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

FOLDER = "explorer"


def address(
    model: str,
    other: str,
    *,
    layer: int | None = None,
    to_layer: int | None = None,
    witnesses: str | None = None,
    feature: tuple[int, int] | None = None,
) -> str:
    """The address, from the report, of the features of `model` looked for in `other`.

    Of those in `layer` with their best partners in `to_layer`, where given, or those that one
    witness calls shared and another does not, "verdict-weights"; or the page of one `feature`,
    (layer, feature).
    """
    said = {"from": model, "to": other, "layer": layer, "to_layer": to_layer}
    said |= {"witnesses": witnesses}
    if feature is not None:
        said["feature"] = f"{feature[0]}/{feature[1]}"
    words = (
        f"{name}={quote(str(value), safe='/')}" for name, value in said.items() if value is not None
    )
    return f"{FOLDER}/index.html#{'&'.join(words)}"


def pair_pages(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Names of the pages of pairs and of their figures' folders: "pair-A--B".

    Where two would be one file, the second has its place in the list.
    """
    names: list[str] = []
    for place, (a, b) in enumerate(pairs):
        name = f"pair-{re.sub(r'[^A-Za-z0-9._-]', '-', f'{a}--{b}')}"
        names.append(f"{name}-{place}" if name in names else name)
    return names
