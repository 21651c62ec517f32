"""Circuit tables to the rows that each chart draws; numbers rounded to four significant digits.

`panel` is the heading under which a row is drawn.  A row of a patch has the change of every metric,
so that the figure's switch needs no other data.
"""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from homolog.report.circuit_records import METRICS, CircuitRecords, Row, in_sequence, place_of
from homolog.report.circuit_words import corruption_words

Rows = list[dict[str, Any]]

# of a model's whole drop: what a place must carry for a panel of its own in the Off-by-One figure
CARRIES = 0.1
MOST_PLACES = 4
ALL = "all"


def short(value: Any) -> float | None:
    """A number of four significant digits; None when it is missing or undefined."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.4g}")


def changes(row: Row) -> dict[str, Any]:
    """The change of each metric with its interval."""
    return {
        f"{metric}{end}": short(row[f"{metric}{end}"])
        for metric in METRICS
        for end in ("", "_lo", "_hi")
    }


def head_cells(records: CircuitRecords, experiment: str) -> Rows:
    """One row a head, model and corruption: layer, head, and whether it plays a part."""
    parts = {
        (r["model"], r["component"].split("@")[0]) for r in records.roles.iter_rows(named=True)
    }
    rows = _in_order(records, records.experiment(experiment))
    return [
        {
            "panel": f"{row['model']}: {corruption_words(row['corruption'])}",
            "layer": place_of(row["sender"])[0],
            "head": place_of(row["sender"])[1],
            "sender": row["sender"],
            "receiver": row["receiver"],
            "part": (row["model"], row["sender"]) in parts,
            **changes(row),
        }
        for row in rows
    ]


def layer_bars(records: CircuitRecords) -> Rows:
    """One row a block of a Mamba: its state, then its y, to the logits."""
    names = {"state to logits": "state", "y to logits": "y"}
    rows = [row for name in names for row in records.experiment(name).to_dicts()]
    rows.sort(
        key=lambda row: (records.models.index(row["model"]), list(names).index(row["experiment"]))
    )
    return [
        _layer_bar(row, f"{names[row['experiment']]}, {corruption_words(row['corruption'])}")
        for row in rows
    ]


def upstream_bars(records: CircuitRecords) -> Rows:
    """One row an earlier block of a Mamba: its y into the state of each key block."""
    rows = records.experiment("layer to the key layer").to_dicts()
    rows.sort(key=lambda row: records.models.index(row["model"]))
    return [_layer_bar(row, f"into state {place_of(row['receiver'])[0]}") for row in rows]


def _layer_bar(row: Row, heading: str) -> dict[str, Any]:
    place = {
        "panel": f"{row['model']}: {heading}",
        "layer": place_of(row["sender"])[0],
        "sender": row["sender"],
    }
    return place | changes(row)


def convolution_bars(records: CircuitRecords) -> Rows:
    """One row an input of the convolution, for the writes at B and B+1 of each key block."""
    rows = []
    for row in _in_order(records, records.effects_like("convolution into the write at ")):
        layer, at = (
            place_of(row["receiver"])[0],
            row["experiment"].removeprefix("convolution into the write at "),
        )
        rows.append(
            {
                "panel": f"{row['model']}: block {layer}, write at {at}",
                "layer": layer,
                "at": at,
                "position": row["position"],
                "corruption": corruption_words(row["corruption"]),
                **changes(row),
            }
        )
    rows.sort(key=lambda row: row["at"])  # the write at B stands left of that at B+1
    order = list(dict.fromkeys(row["panel"].split(", write")[0] for row in rows))
    return sorted(rows, key=lambda row: (order.index(row["panel"].split(", write")[0]), row["at"]))


def position_order(rows: Rows) -> list[str]:
    """The labels of the rows' positions in the order of the prompt."""
    return in_sequence(str(row["position"]) for row in rows)


def position_curves(records: CircuitRecords) -> Rows:
    """What each position carries: the writes of key blocks, the keys and values that the key head
    reads.
    """
    names = {
        "state write by position": "write",
        "key by position": "key",
        "value by position": "value",
    }
    rows = []
    frames = [records.experiment(name) for name in names]
    for row in _in_order(records, pl.concat(frames)):
        place = place_of(row["sender"])
        where = ".".join(map(str, place))
        what = f"head {where}" if len(place) > 1 else f"writes of block {where}"
        rows.append(
            {
                "panel": f"{row['model']}: {what}",
                "offset": row["offset"],
                "position": row["position"],
                "corruption": corruption_words(row["corruption"]),
                "read": names[row["experiment"]],
                **changes(row),
            }
        )
    return rows


def offset_profiles(records: CircuitRecords) -> Rows:
    """The Off-by-One test: one row an offset, for the places that carry most of each model's drop.

    All as shares of the place's whole drop (the sum of what is above zero): share, low, high;
    null_low, null_high; predicted (None where nothing is).
    """
    rows: Rows = []
    for model in records.able:
        own = records.offsets.filter(pl.col("model") == model)
        drop = own.group_by("place", maintain_order=True).agg(
            pl.col("effect").clip(0).sum().alias("drop")
        )
        whole = float(drop["drop"].sum())
        carrying = drop.filter(pl.col("drop") >= CARRIES * whole).sort(
            "drop", descending=True, maintain_order=True
        )
        for place, total in carrying.head(MOST_PLACES).iter_rows():
            if not total > 0:
                continue
            for row in own.filter(pl.col("place") == place).sort("offset").iter_rows(named=True):
                rows.append(
                    {
                        "panel": f"{model}: {place_words(place)}",
                        "model": model,
                        "offset": row["offset"],
                        "effect": short(row["effect"]),
                        "share": short(row["effect"] / total),
                        "low": short(row["effect_lo"] / total),
                        "high": short(row["effect_hi"] / total),
                        "null_low": short(row["null_lo"] / total),
                        "null_high": short(row["null_hi"] / total),
                        "predicted": short(row["predicted_share"]),
                        "of_model": short(total / whole),
                    }
                )
    return rows


def place_words(place: str) -> str:
    """ "writes of block 5" for "write.5", "what head 2.3 reads" for "z.2.3"."""
    kind, *where = place.split(".")
    return (
        f"writes of block {where[0]}" if kind == "write" else f"what head {'.'.join(where)} reads"
    )


def validated_edges(records: CircuitRecords) -> Rows:
    """One row an edge that was patched for real."""
    rows = records.edges.filter(pl.col("effect").is_not_null() & pl.col("effect").is_not_nan())
    return [
        {
            "panel": f"{row['model']}: {corruption_words(row['corruption'])}",
            "edge": edge_words(row),
            "score": short(row["score"]),
            "effect": short(row["effect"]),
            "low": short(row["effect_low"]),
            "high": short(row["effect_high"]),
            "chosen": row["chosen_as"],
        }
        for row in _in_order(records, rows)
    ]


def edge_words(row: Row) -> str:
    """ "conv_in.5 → conv_taps.5 (tap 3) at B"."""
    tap = f" (tap {row['tap']})" if row["tap"] is not None else ""
    return f"{row['sender']} \u2192 {row['receiver']}{tap} at {row['position']}"


def _in_order(records: CircuitRecords, rows: pl.DataFrame) -> Rows:
    """The rows, models in the order of the page, the rest in that of the table; more telling
    corruptions first.
    """
    order = ("replace_B", "replace_A")
    place = {model: i for i, model in enumerate(records.models)}
    return sorted(
        rows.to_dicts(),
        key=lambda row: (
            place[row["model"]],
            order.index(row["corruption"]) if row["corruption"] in order else 9,
        ),
    )
