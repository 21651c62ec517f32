"""What each chart of an experiment draws: one row per mark.

`panel` is the heading under which a row is drawn.  A row has the change of every metric, to four
significant digits, so that the figure's switch needs no other data.
"""

from __future__ import annotations

from typing import Any

from homolog.analyses.induction.records import CircuitRecords
from homolog.analyses.induction.words import SHOWN_METRICS, corruption_words, place_of
from homolog.analyses.records import Row
from homolog.charts.figure import Rows, significant
from homolog.record.circuits import (
    LAYER_TO_KEY_LAYER,
    STATE_TO_LOGITS,
    STATE_WRITES,
    Y_TO_LOGITS,
    by_position,
    into_write,
)

TO_LOGITS = {STATE_TO_LOGITS: "state", Y_TO_LOGITS: "y"}
INTO_WRITE = {into_write(at): at for at in ("B", "B+1")}
BY_POSITION = {STATE_WRITES: "write"} | {by_position(read): read for read in ("key", "value")}


def _row(patch: Row, heading: str, **more: Any) -> dict[str, Any]:
    columns = [f"{metric}{end}" for metric in SHOWN_METRICS for end in ("", "_lo", "_hi")]
    changes = {column: significant(patch[column]) for column in columns}
    return {"panel": f"{patch['model']}: {heading}"} | more | changes


def head_cells(records: CircuitRecords, experiment: str) -> Rows:
    """One row per head, model and corruption: block, head, and whether it plays a part."""
    parts = {(part["model"], part["component"].split("@")[0]) for part in records.roles}
    rows = []
    for patch in records.experiment(experiment):
        layer, head = place_of(patch["sender"])
        where = {"sender": patch["sender"], "receiver": patch["receiver"]}
        part = (patch["model"], patch["sender"]) in parts
        heading = corruption_words(patch["corruption"])
        rows.append(_row(patch, heading, layer=layer, head=head, part=part, **where))
    return rows


def block_bars(records: CircuitRecords) -> Rows:
    """One row per block of a Mamba: its state, then its y, to the logits."""
    rows = []
    for patch in records.experiment(*TO_LOGITS):
        heading = f"{TO_LOGITS[patch['experiment']]}, {corruption_words(patch['corruption'])}"
        rows.append(_block(patch, heading))
    return rows


def upstream_bars(records: CircuitRecords) -> Rows:
    """One row per earlier block of a Mamba: its y into the state of each key block."""
    patches = records.experiment(LAYER_TO_KEY_LAYER)
    return [_block(patch, f"into state {place_of(patch['receiver'])[0]}") for patch in patches]


def _block(patch: Row, heading: str) -> dict[str, Any]:
    return _row(patch, heading, layer=place_of(patch["sender"])[0], sender=patch["sender"])


def convolution_bars(records: CircuitRecords) -> Rows:
    """One row per input of the convolution, for the writes at B and B+1 of each key block."""
    rows = []
    for patch in records.experiment(*INTO_WRITE):
        at, block = INTO_WRITE[patch["experiment"]], place_of(patch["receiver"])[0]
        corruption = corruption_words(patch["corruption"])
        where = {"position": patch["position"], "corruption": corruption}
        rows.append(_row(patch, f"block {block}, write at {at}", at=at, **where))
    blocks = list(dict.fromkeys(row["panel"].split(", write")[0] for row in rows))
    return sorted(rows, key=lambda row: (blocks.index(row["panel"].split(", write")[0]), row["at"]))


def position_curves(records: CircuitRecords) -> Rows:
    """What each position carries: writes of key blocks, keys and values that the key head reads."""
    rows = []
    for patch in records.experiment(*BY_POSITION):
        place = place_of(patch["sender"])
        where = ".".join(map(str, place))
        heading = f"head {where}" if len(place) > 1 else f"writes of block {where}"
        about = {"offset": patch["offset"], "position": patch["position"]}
        read, corruption = BY_POSITION[patch["experiment"]], corruption_words(patch["corruption"])
        rows.append(_row(patch, heading, read=read, corruption=corruption, **about))
    return rows
