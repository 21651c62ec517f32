"""Features as people see them: their contexts with shaded tokens, beside their partners'.

In a notebook each is HTML (`_repr_html_`), text elsewhere (`repr`), and a plain table (`table`).
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from homolog.charts.theme import MODEL_COLOURS
from homolog.charts.words import is_number, number
from homolog.corpus import TokenText, joined
from homolog.record.run_folder import RunFolder

CONTEXTS = 5
"""Shown of a feature."""
BEFORE, AFTER = 12, 4
"""Tokens around the one where it fires most."""
_LINE = "white-space:pre-wrap;font-family:monospace;font-size:12px;line-height:1.7;margin:2px 0"


@dataclass(frozen=True)
class ShownContext:
    """Tokens, what the feature is on each, and the place of the one where it fires most."""

    tokens: list[str]
    values: list[float]
    place: int

    @property
    def text(self) -> tuple[str, str, str]:
        """Before that token, the token, after it."""
        at = self.place
        before, after = self.tokens[:at], self.tokens[at + 1 :]
        return "".join(before), self.tokens[at], "".join(after)

    def near(self) -> ShownContext:
        """The part around that token."""
        first = max(0, self.place - BEFORE)
        part = slice(first, self.place + AFTER + 1)
        return ShownContext(self.tokens[part], self.values[part], self.place - first)


@dataclass(frozen=True)
class ShownFeature:
    """A feature, with the contexts in which it fires most.

    side: 0 or 1, for its colour.
    """

    model: str
    layer: int
    feature: int
    contexts: list[ShownContext]
    side: int = 0

    @classmethod
    def of(
        cls,
        place: tuple[str, int, int],
        contexts: pl.DataFrame,
        vocabulary: Sequence[TokenText],
        side: int = 0,
    ) -> ShownFeature:
        """place: model, layer, feature.  contexts: of `CONTEXTS`, those of its layer."""
        rows = contexts.filter(pl.col("quantile") == 1, feature=place[2]).sort("rank")
        shown = [
            ShownContext(
                joined([vocabulary[token] for token in row["tokens"]]),
                row["values"],
                row["position"] - row["start"],
            )
            for row in rows.iter_rows(named=True)
        ]
        return cls(*place, shown, side)

    @property
    def name(self) -> str:
        return f"{self.model}, block {self.layer}, feature {self.feature}"

    @cached_property
    def table(self) -> pl.DataFrame:
        """A row per context: before, token, after, value."""
        rows = [(*c.text, c.values[c.place]) for c in self.contexts]
        schema = {"before": pl.String, "token": pl.String, "after": pl.String, "value": pl.Float32}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def __repr__(self) -> str:
        lines = (_one_line("{}[{}]{}".format(*c.near().text)) for c in self.contexts[:CONTEXTS])
        return "\n".join([self.name, *(f"    {line}" for line in lines)])

    def _repr_html_(self) -> str:
        lines = "".join(f'<div style="{_LINE}">{line}</div>' for line in self.lines())
        none = "" if self.contexts else "<div>It fires nowhere in this text.</div>"
        return f"<div><b>{html.escape(self.name)}</b>{lines}{none}</div>"

    def lines(self, n: int = CONTEXTS) -> list[str]:
        """HTML of the first n contexts, around the token where it fires most."""
        return [self._shaded(context.near()) for context in self.contexts[:n]]

    def _shaded(self, context: ShownContext) -> str:
        """The tokens, the stronger the feature, the darker."""
        most = max([*context.values, 1e-9])
        red, green, blue = (int(MODEL_COLOURS[self.side][0][i : i + 2], 16) for i in (1, 3, 5))

        def parts() -> Iterator[str]:
            for token, value in zip(context.tokens, context.values, strict=True):
                text = html.escape(_one_line(token))
                if value <= 0:
                    yield text
                    continue
                colour = f"rgba({red},{green},{blue},{0.08 + 0.6 * value / most:.2f})"
                yield f'<span style="background:{colour}" title="{value:.3g}">{text}</span>'

        return "".join(parts())


@dataclass(frozen=True)
class ShownPair:
    """A feature and its best partner in another model, and what the study says of the match."""

    feature: ShownFeature
    partner: ShownFeature
    table: pl.DataFrame
    """The row of matches."""

    @property
    def says(self) -> str:
        """r, and whether it is a homolog, or why not."""
        row = self.table.row(0, named=True)
        verdict = "a homolog" if row["homolog"] else "no homolog"
        if row["homolog"] is None:
            verdict = "not judged"
        elif not row["homolog"] and row["fails"]:
            verdict += f" ({row['fails']})"
        bar = f", needed {number(row['bar'])}" if is_number(row["bar"]) else ""
        return f"r {number(row['r'])}{bar}: {verdict}"

    def __repr__(self) -> str:
        return f"{self.says}\n{self.feature!r}\n{self.partner!r}"

    def _repr_html_(self) -> str:
        sides = "".join(
            f'<div style="flex:1;min-width:300px">{side._repr_html_()}</div>'
            for side in (self.feature, self.partner)
        )
        row = f'<div style="display:flex;flex-wrap:wrap;gap:24px">{sides}</div>'
        return f"<div>{html.escape(self.says)}</div>{row}"


@dataclass(frozen=True)
class FeatureReader:
    """Reads features from a run.

    contexts: gives the rows of the table `contexts` of a layer of a model.
    """

    folder: RunFolder
    contexts: Callable[[str, int], pl.DataFrame]

    @cached_property
    def _vocabularies(self) -> dict[str, list[TokenText]]:
        return {}

    def vocabulary(self, model: str) -> list[TokenText]:
        """What each token of the model's text stands for."""
        text = self.folder.text_of(model)
        if text not in self._vocabularies:
            self._vocabularies[text] = self.folder.token_texts(text)
        return self._vocabularies[text]

    def feature(self, model: str, layer: int, feature: int, side: int = 0) -> ShownFeature:
        """A feature with its contexts."""
        contexts, words = self.contexts(model, layer), self.vocabulary(model)
        return ShownFeature.of((model, layer, feature), contexts, words, side)

    def pair(self, match: pl.DataFrame) -> ShownPair:
        """A feature beside its best partner.  match: their row of matches."""
        own = match.select("model", "layer", "feature").row(0)
        partner = match.select("best_model", "best_layer", "best_feature").row(0)
        return ShownPair(self.feature(*own), self.feature(*partner, side=1), match)


@dataclass(frozen=True)
class ShownFeatures:
    """Features that a search found, the first ones shown."""

    table: pl.DataFrame
    """model, layer, feature, hits (of its contexts), value (largest activation there)."""
    first: list[ShownFeature]

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return "\n".join([self._count(), *map(repr, self.first)])

    def _repr_html_(self) -> str:
        shown = "".join(feature._repr_html_() for feature in self.first)
        return f"<div>{html.escape(self._count())}</div>{shown}"

    def _count(self) -> str:
        return f"{len(self.table):,} features; shown are the first {len(self.first)}"


def _one_line(text: Any) -> str:
    return str(text).replace("\n", "⏎").replace("\r", "␍").replace("\t", "⇥").replace("\0", "␀")
