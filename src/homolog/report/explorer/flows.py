"""How features go on through the layers of their model: data/flow/MODEL-LAYER.js.

Of each layer two sides, "before" and "after", each with columns in the order of its features:

    layer     of the neighbours, one for all; null where there is none
    feature   the best by r there, 4294967295 for none
    counts    1 where it is an ancestor, or a descendant
    r         quantised (packing.py), undefined where it is
    cosine    of the decoder directions of both, likewise
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from homolog.report.explorer.packing import quantised, write_data
from homolog.report.explorer.rows import NO_ROW, ModelRows

SIDES = {"before": "ancestor", "after": "descendant"}


def write_flows(folder: Path, flow: pl.DataFrame, models: Sequence[ModelRows]) -> list[str]:
    """Write the files of all layers that `flow` knows; returns their "MODEL-LAYER".

    flow: as the table of that name.
    """
    written = list[str]()
    for number, rows in enumerate(models):
        of_model = flow.filter(model=rows.model)
        for (layer,), own in of_model.group_by("layer", maintain_order=True):
            own = own.sort("feature")
            place = int(layer)  # type: ignore[call-overload]
            if len(own) != (rows.sizes[place] if place < len(rows.sizes) else 0):
                continue  # of dictionaries that the explorer does not show
            value = {name: _side(own, which) for name, which in SIDES.items()}
            write_data(folder, f"flow/{number}-{place}", value)
            written.append(f"{number}-{place}")
    return written


def _side(own: pl.DataFrame, which: str) -> dict[str, Any] | None:
    there = int(own[f"{which}_layer"][0])
    if there < 0:
        return None
    feature = own[f"{which}_feature"].cast(pl.Int64).to_numpy()
    counts = (own[f"{which}_r"] >= own[f"{which}_needs"]).fill_null(False).to_numpy()
    r, cosine = (own[f"{which}_{name}"].cast(pl.Float64).to_numpy() for name in ("r", "cosine"))
    defined = feature >= 0
    return {
        "layer": there,
        "feature": np.where(defined, feature, NO_ROW).astype(np.uint32),
        "counts": (counts & defined & np.isfinite(r)).astype(np.uint8),
        "r": quantised(r),
        "cosine": quantised(cosine),
    }
