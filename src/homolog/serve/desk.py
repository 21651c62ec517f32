"""Answers questions about a prompt, one at a time, from models that are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from homolog.corpus import alone
from homolog.corpus.units import Units, units_of
from homolog.errors import require_one_of
from homolog.features.pooled import Align, pool
from homolog.serve.partners import Partners, Place
from homolog.serve.question import Change, Question
from homolog.serve.reading import Reader, Reading

LINKS, OTHERS = 16, 8
"""What is shown at a token: homologs that fire in both, and features of each model beside them."""
Answer = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two models of a run and what is matched between them."""

    names: tuple[str, str]
    partners: Partners
    one_text: bool
    """Whether both have one tokenizer."""


@dataclass(frozen=True)
class Desk:
    """The models of a run, ready to answer.

    words: of each model, what its features fire on, by place.  align: how features are taken by
    units of text where tokenizers differ.
    """

    readers: Mapping[str, Reader]
    pairs: Sequence[Pair]
    words: Mapping[str, Mapping[Place, list[str]]]
    align: Align
    _turn: Lock = field(default_factory=Lock)

    @property
    def about(self) -> Answer:
        """What the page knows before it asks."""
        names = list(self.readers)
        pairs = [[names.index(name) for name in pair.names] for pair in self.pairs]
        return {"models": names, "pairs": pairs, "align": self.align}

    def answer(self, what: str, values: Any) -> Answer:
        """The answer to a question of a kind, "read" or "change".  InputError: see `question`."""
        require_one_of("question", what, ("read", "change"))
        if what == "change":
            change = Change.asked(values)
            require_one_of("model", change.model, self._pair(change).names)
            with self._turn:
                return self._change(change)
        question = Question.asked(values)
        pair = self._pair(question)
        with self._turn:
            return self._read(question, pair)

    def _pair(self, question: Question) -> Pair:
        require_one_of("pair", question.pair, range(len(self.pairs)))
        return self.pairs[question.pair]

    def _readings(self, text: str, pair: Pair) -> list[Reading]:
        readers = [self.readers[name] for name in pair.names]
        windows = [reader.windows(text, bounds=not pair.one_text) for reader in readers]
        return [reader.read(own) for reader, own in zip(readers, windows, strict=True)]

    def _read(self, question: Question, pair: Pair) -> Answer:
        readings = self._readings(question.text, pair)
        units = _units(readings, question.text, pair.one_text)
        firing = [
            _by_unit(reading, first, last, "last" if pair.one_text else self.align)
            for reading, first, last in zip(
                readings, (units.first_a, units.first_b), (units.last_a, units.last_b), strict=True
            )
        ]
        known: list[dict[str, Answer]] = [{}, {}]
        shown = [self._unit(a, b, pair, readings, known) for a, b in zip(*firing, strict=True)]
        columns = (units.first_a, units.last_a, units.first_b, units.last_b)
        places = np.stack(columns, axis=1).tolist()
        return {
            "text": question.text,
            "one_text": pair.one_text,
            "units": [{"tokens": at} | unit for at, unit in zip(places, shown, strict=True)],
            "models": [
                _told(reading) | {"features": own}
                for reading, own in zip(readings, known, strict=True)
            ],
        }

    def _unit(
        self,
        a: Mapping[Place, float],
        b: Mapping[Place, float],
        pair: Pair,
        readings: Sequence[Reading],
        known: Sequence[dict[str, Answer]],
    ) -> Answer:
        """What fires at a unit: homologs in both, and the strongest of what else does."""
        strength = [
            {place: _share(reading, place, value) for place, value in own.items()}
            for reading, own in zip(readings, (a, b), strict=True)
        ]
        links = pair.partners.links(a, b)
        links.sort(key=lambda link: (-min(strength[0][link.a], strength[1][link.b]), link))
        linked = ({link.a for link in links}, {link.b for link in links})
        told = links[:LINKS]
        others = [
            sorted(own.keys() - linked[side], key=lambda at: (-strength[side][at], at))[:OTHERS]
            for side, own in enumerate((a, b))
        ]
        for side, reading in enumerate(readings):
            for place in [(link.a, link.b)[side] for link in told] + others[side]:
                self._know(known[side], pair, side, reading, place)
        return {
            "links": [[_key(link.a), _key(link.b), link.r, a[link.a], b[link.b]] for link in told],
            "others": [
                [[_key(place), own[place]] for place in some]
                for some, own in zip(others, (a, b), strict=True)
            ],
            "n_links": len(links),
            "n": [len(a), len(b)],
        }

    def _know(
        self, known: dict[str, Answer], pair: Pair, side: int, reading: Reading, place: Place
    ) -> None:
        """What is known of a feature on any text, once."""
        if _key(place) in known:
            return
        largest, name = reading.reader.layers[place[0]].largest, pair.names[side]
        partner = pair.partners.sides[side].get(place)
        known[_key(place)] = {
            "largest": None if largest is None else float(largest[place[1]]),
            "words": self.words.get(name, {}).get(place, []),
            "partner": None
            if partner is None
            else {"at": _key(partner.place), "r": partner.r, "homolog": partner.homolog},
        }

    def _change(self, change: Change) -> Answer:
        reader, pair = self.readers[change.model], self._pair(change)
        reading = reader.read(reader.windows(change.text, bounds=not pair.one_text))
        rows, moved, after = reading.changed(change)
        names = {i: alone(reader.shown(i)) for row in rows for i, _, _ in row}
        return {
            "model": change.model,
            "predictions": rows,
            "moved": moved,
            "activations": after,
            "names": names,
        }


def _units(readings: Sequence[Reading], text: str, one_text: bool) -> Units:
    """The stretches of text by which both models are shown: tokens, where these are the same."""
    if one_text:
        at = np.arange(len(readings[0].mask))
        return Units(at, at, at, at, np.ones(len(at), np.int64))
    a, b = (reading.windows.bounds for reading in readings)
    assert a is not None and b is not None
    return units_of(a, b)


def _by_unit(
    reading: Reading, first: np.ndarray, last: np.ndarray, align: Align
) -> list[dict[Place, float]]:
    """The features that fire in each unit, by place."""
    found: list[dict[Place, float]] = [{} for _ in first]
    for layer, matrix in reading.features.items():
        pooled = pool(matrix, first, last, align)
        rows = np.repeat(np.arange(len(first)), np.diff(pooled.indptr))
        for row, feature, value in zip(
            rows.tolist(), pooled.indices.tolist(), pooled.data.tolist(), strict=True
        ):
            if value > 0:
                found[row][layer, feature] = value
    return found


def _share(reading: Reading, place: Place, value: float) -> float:
    """An activation by the largest of the run's text; by itself where that is not known."""
    largest = reading.reader.layers[place[0]].largest
    top = 0.0 if largest is None else float(largest[place[1]])
    return value / top if top > 0 else value


def _told(reading: Reading) -> Answer:
    predictions = reading.predictions()
    reader = reading.reader
    return {
        "name": reader.name,
        "tokens": reading.tokens,
        "predictions": predictions,
        "names": {i: alone(reader.shown(i)) for row in predictions for i, _ in row},
    }


def _key(place: Place) -> str:
    return f"{place[0]}/{place[1]}"
