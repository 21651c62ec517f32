"""What the list of features sorts and filters by: one file per column of a model or ordered pair.

Columns stand in the order of rows (rows.py).  A page loads the columns that it needs: at most 2.7
bytes per feature each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from homolog.report.explorer.packing import quantised, smallest, write_data
from homolog.report.explorer.reasons import HOMOLOG, verdicts_of
from homolog.report.explorer.rows import ModelRows
from homolog.report.explorer.witnesses import COLUMN, against


@dataclass(frozen=True)
class Sortable:
    """A column of numbers: its name in the tables, a title, what it says, and how it is shown."""

    name: str
    title: str
    says: str
    digits: int = 2
    """After the point, or of the percentage where `percent`."""
    of_pair: bool = False
    """Of matches, else of features."""
    log: bool = False
    """Spread over orders of magnitude."""
    first: bool = False
    """In the first view."""
    percent: bool = False


_ACTIVE = "share of tokens at which it fires"
_CHANCE = "r less what chance reaches at its frequency"
_BEYOND = "share of its variance that its partner explains, less what all controls do together"
_CAUSAL = "correlation of the effects of both features on the next token"
_TOGETHER = "explained by all features of the other model together"
OF_PAIR = (
    Sortable("r", "r", "correlation with its best partner", 3, of_pair=True, first=True),
    Sortable("excess", "Excess", _CHANCE, 3, of_pair=True, first=True),
    Sortable("beyond", "Beyond controls", _BEYOND, 3, of_pair=True, first=True),
)
OF_FEATURE = (
    Sortable("freq", "Active", _ACTIVE, log=True, first=True, percent=True),
    Sortable("token_entropy", "Token entropy", "bits; 0 when it fires on one token only"),
    Sortable("token_r2", "Token R²", "share of its variance that the current token alone explains"),
    Sortable("context_tokens", "Context needed", "tokens to the left that its activation needs", 1),
    Sortable("consistency", "Consistency", "likeness of the contexts in which it fires"),
    Sortable("complexity", "Complexity, rated", "1 (simple) to 5, said by a language model", 0),
    Sortable("consistency_rated", "Consistency, rated", "1 to 5, said by a language model", 0),
    Sortable("detection", "Detection", "how well the explanation tells held-out contexts apart"),
    Sortable("partner_detection", "Detection, partner", "the same on contexts of its best partner"),
    Sortable("causal_r", "Causal agreement", _CAUSAL),
    Sortable("exclusive_r2", "R² from all", _TOGETHER),
)
COLUMNS = (*OF_PAIR, *OF_FEATURE)


class ColumnFiles:
    """Writes data/columns/ model by model, and remembers which models and pairs have which.

    against: of each pair, "0-1", which two of its witnesses disagree somewhere.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._having: dict[str, list[str]] = {column.name: [] for column in COLUMNS}
        self.has_homologs = False
        self.against: dict[str, list[str]] = {}

    def add_model(self, place: int, features: pl.DataFrame) -> None:
        """Write those of a model; `features`: in the order of its rows."""
        self._write(str(place), OF_FEATURE, features)
        if "top_tokens" in features.columns:
            first = features["top_tokens"].list.first().fill_null("")
            write_data(self.folder, f"columns/{place}-token", _in_words(first))

    def add_pair(self, place: int, other: int, matches: pl.DataFrame, target: ModelRows) -> None:
        """Write those of an ordered pair; `matches`: to `target`, in the order of rows."""
        pair = f"{place}-{other}"
        self._write(pair, OF_PAIR, matches)
        layer, feature = (
            matches[name].fill_null(-1).cast(pl.Int64).to_numpy()
            for name in ("best_layer", "best_feature")
        )
        write_data(self.folder, f"columns/{pair}-best", {"codes": target.find(layer, feature)})
        if "homolog" in matches.columns:
            verdicts = verdicts_of(matches)
            write_data(self.folder, f"columns/{pair}-homolog", _in_words(verdicts))
            self.has_homologs |= HOMOLOG in verdicts
        if COLUMN in matches.columns and matches[COLUMN].is_not_null().any():
            said = _in_words(matches[COLUMN].fill_null(""))
            write_data(self.folder, f"columns/{pair}-{COLUMN}", said)
            self.against[pair] = against(said["words"])

    def _write(self, place: str, columns: Sequence[Sortable], table: pl.DataFrame) -> None:
        for column in columns:
            name = column.name
            if name in table.columns and table[name].is_not_null().any():
                values = table[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
                write_data(self.folder, f"columns/{place}-{name}", quantised(values, column.log))
                self._having[name].append(place)

    def written(self) -> list[dict[str, Any]]:
        """What the page is told of each column, and as "of" the models and pairs that have it."""
        having = ((column, self._having[column.name]) for column in COLUMNS)
        return [asdict(column) | {"of": places} for column, places in having if places]


def _in_words(texts: pl.Series) -> dict[str, Any]:
    """The distinct texts in order, and the place there of each feature's."""
    words = sorted({"", *texts.unique().to_list()})
    place = {word: i for i, word in enumerate(words)}
    return {"words": words, "codes": smallest(np.array([place[word] for word in texts.to_list()]))}
