"""Permanent links into the explorer."""

from __future__ import annotations

from urllib.parse import quote

FOLDER = "explorer"


def address(
    model: str,
    other: str,
    *,
    layer: int | None = None,
    to_layer: int | None = None,
    feature: tuple[int, int] | None = None,
    folder: str = FOLDER,
) -> str:
    """The address, from the report, of the features of `model` looked for in `other`.

    Of those in `layer` with their best partners in `to_layer`, where given; or the page of one
    `feature`, (layer, feature).  `folder`: of the explorer, from the page that links.
    """
    said = {"from": model, "to": other, "layer": layer, "to_layer": to_layer}
    if feature is not None:
        said["feature"] = f"{feature[0]}/{feature[1]}"
    words = (
        f"{name}={quote(str(value), safe='/')}" for name, value in said.items() if value is not None
    )
    return f"{folder}/index.html#{'&'.join(words)}"
