"""Three small models whose features, matches and contexts are known."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.report.pages import EVIL

from homolog.analyses.records import StudyRecords
from homolog.record.places import Places
from homolog.record.run_record import FORMAT, write_record
from homolog.record.table import Table
from homolog.record.tables import (
    CONTEXTS,
    FEATURES,
    FLOW,
    MAP,
    MATCHES,
    OVERLAY,
    RATINGS,
    SCATTER,
    WITNESSES,
)
from homolog.report.explorer import Source, sheets, words, write_explorer

A, B, C = "transformer-s0", "mamba-s0", "rwkv-s0"
LAYERS = {A: 2, B: 3, C: 1}
# 130: a chunk of 128 and a bit; layer 1 of B has none
SIZES = {A: (130, 6), B: (40, 0, 60), C: (3,)}
FEATURE = ["model", "layer", "feature"]
VOCABULARY = [
    " the",
    " cat",
    "s",
    " Par",
    "is",
    ".",
    "\n",
    "中",
    "文",
    " __proto__",
    " naïve",
    "é",
    " constructor",
    "_",
    "1",
    "2x",
    " Over",
    "shadow",
    EVIL,
    "</script>",
    "\u2028",
    " ",
    "",
    " dog-",
    "house",
    " ﾊﾛ",
    " 𐐨𐐩",
]  # the last two stand in another order as JavaScript compares them
NUMPY = {"u8": "<u1", "u16": "<u2", "u32": "<u4"}


def features_of(sizes: dict[str, tuple[int, ...]] = SIZES) -> pl.DataFrame:
    """Feature f of layer l fires on f tokens, and 5 has no neighbours; with what was said of it."""
    rows = [
        {
            "model": model,
            "layer": layer,
            "feature": f,
            "n_active": f,
            "freq": f / 1000,
            "mean_active": 1.5,
            "max": 2.0 + f,
            "token_entropy": float("nan") if f == 0 else f / 16,
            "promoted": [" cat", EVIL],
            "suppressed": [],
            "near_feature": [] if f == 5 else [0, 1],
            "near_cosine": [] if f == 5 else [0.75, 0.5],
            "top_tokens": [VOCABULARY[f % 3], " Par"],
        }
        for model, layer, f in features_in(sizes)
    ]
    said = ratings_of(sizes).select(*FEATURE, "explanation", "complexity")
    return FEATURES.frame(rows).join(said, on=FEATURE, how="left", maintain_order="left")


def features_in(sizes: dict[str, tuple[int, ...]]) -> list[tuple[str, int, int]]:
    """(model, layer, feature) of each."""
    return [
        (model, layer, f)
        for model, per_layer in sizes.items()
        for layer, size in enumerate(per_layer)
        for f in range(size)
    ]


def ratings_of(sizes: dict[str, tuple[int, ...]] = SIZES) -> pl.DataFrame:
    """An explanation of every third feature."""
    rated = {"explanation": f"Names of cities {EVIL}", "complexity": 2, "rater": "gpt"}
    rows = [
        {"model": model, "layer": layer, "feature": f} | rated
        for model, layer, f in features_in(sizes)
        if f % 3 == 0
    ]
    return RATINGS.frame(rows)


def matches_of(sizes: dict[str, tuple[int, ...]] = SIZES) -> pl.DataFrame:
    """r falls with the feature's number from 1 by 1/200, 2 has none; the best is always 0 / 1."""
    rows = []
    for model, target in ((A, B), (B, A), (A, C)):
        for _, layer, f in features_in({model: sizes[model]}):
            none = f == 2
            rows.append(
                {
                    "comparison": "main",
                    "kind": "sae",
                    "model": model,
                    "label": "sae",
                    "layer": layer,
                    "feature": f,
                    "r": float("nan") if none else 1 - f / 200,
                    "best_model": target,
                    "best_label": "sae",
                    "best_layer": -1 if none else 0,
                    "best_feature": -1 if none else 1,
                    "runner_up_r": 0.25,
                    "runner_up_layer": 0,
                    "runner_up_feature": 2,
                    "partner_r": 0.125,
                    "partner_layer": -1 if f else 0,
                    "partner_feature": -1 if f else 0,
                    "excess": None if none else 0.5 - f / 200,
                    "q": 1e-4,
                    "mutual": f == 1,
                    "homolog": None if none else f < 40,
                }
            )
    table = MATCHES.frame(rows)
    rotated = {"comparison": pl.lit("rotated"), "best_label": pl.lit("rotated")}
    control = table.with_columns(**rotated, r=pl.lit(0.999, pl.Float32))
    return pl.concat([control, table])


def contexts_of(model: str, layer: int) -> pl.DataFrame | None:
    """Random contexts of a layer, in random order; the strongest of feature 1 is " Paris".

    None of features that 7 divides, none at all in layer 1 of A.  " Paris" fires on its end.
    """
    if (model, layer) == (A, 1):
        return None
    rng = np.random.default_rng([len(model), layer])
    rows = []
    for f in range(SIZES[model][layer]):
        for i in range(5 if f % 7 else 0):
            length = int(rng.integers(1, 9))
            peak = int(rng.integers(length))
            values = np.where(rng.random(length) < 0.3, rng.random(length), 0.0)
            values[peak] = 1.0 + f + (4 - i)
            tokens = rng.integers(0, len(VOCABULARY), length).tolist()
            if (f, i) == (1, 0):
                tokens, values, peak = [3, 4], np.array([0.0, 6.0]), 1
            rows.append(
                {
                    "feature": f,
                    "quantile": 1.0 if i < 3 else 0.5,
                    "rank": i if i < 3 else i - 3,
                    "row": i,
                    "document": i,
                    "window": i,
                    "position": 10 + peak,
                    "value": float(values[peak]),
                    "start": 10,
                    "tokens": tokens,
                    "values": values.tolist(),
                }
            )
    return CONTEXTS.frame(rows).sample(fraction=1.0, shuffle=True, seed=1) if rows else None


def scatter_of(model: str, layer: int) -> pl.DataFrame | None:
    """Three points for feature 1 of each layer of A and its partner in B."""
    if model != A:
        return None
    points = {"scatter_x": [0.0, 1.0, 2.0], "scatter_y": [0.0, 5.0, 10.0]}
    return SCATTER.frame([{"feature": 1, "best_model": B} | points])


def overlay_of(model: str, layer: int) -> pl.DataFrame | None:
    """For feature 1 of layer 0 of A and its partner in B the first two top examples of either.

    On the first of each the other fires at its last token, by 3 and by 2; on the second it does
    not.
    """
    if (model, layer) != (A, 0):
        return None
    rows = []
    for of, last in ((A, 3.0), (B, 2.0)):
        table = contexts_of(of, 0)
        assert table is not None
        top = table.filter(pl.col("quantile") == 1, pl.col("rank") < 2, feature=1).sort("rank")
        for rank, tokens in top.select("rank", "tokens").iter_rows():
            values = [0.0] * (len(tokens) - 1) + [0.0 if rank else last]
            example = {"of_partner": of == B, "rank": rank, "values": values}
            rows.append({"feature": 1, "best_model": B} | example)
    return OVERLAY.frame(rows)


def places_of() -> pl.DataFrame:
    """Feature f of layer l of A at (f, l), of B at (f, 64 + l); 4 of each layer has no place.

    So the square is 129 wide, and what is 66 high stands in its middle.
    """
    above = {A: 0, B: 64}
    rows = [
        {"model": model, "layer": layer, "feature": f, "x": f, "y": above[model] + layer}
        for model, layer, f in features_in(SIZES)
        if model in above and f != 4
    ]
    return MAP.frame(rows)


def flow_of() -> pl.DataFrame:
    """Feature 0 of layer 0 of A goes on as feature 5 of layer 1, and all others there are born.

    In B features of layer 2 come from the feature of the same number in layer 0, up to 9 with r
    1 - f / 10, of which half counts; its layer 1 has no dictionary.  2 is silent.
    """
    rows = []
    links = {(A, 0, 1): {0: (5, 0.75)}, (B, 0, 2): {f: (f, 1 - f / 10) for f in range(10)}}
    for (model, first, second), pairs in links.items():
        for layer, other in ((first, second), (second, first)):
            found = pairs if layer == first else {j: (i, r) for i, (j, r) in pairs.items()}
            which = "descendant" if layer == first else "ancestor"
            none = "ancestor" if layer == first else "descendant"
            for f in range(SIZES[model][layer]):
                best, r = found.get(f, (1, 0.1)) if f != 2 else (-1, float("nan"))
                row = {"model": model, "layer": layer, "feature": f, f"{none}_layer": -1}
                row |= {f"{none}_feature": -1, f"{which}_layer": other, f"{which}_feature": best}
                rows.append(
                    row | {f"{which}_r": r, f"{which}_needs": 0.5, f"{which}_cosine": r / 2}
                )
    return FLOW.frame(rows)


def witnesses_of() -> pl.DataFrame:
    """What four features of layer 0 of A have said of them and B."""
    about = {"model": A, "layer": 0, "best_model": B}
    rows = [
        {"feature": 0, "verdict": True, "weights": True},
        {"feature": 1, "verdict": True, "weights": False},
        {"feature": 3, "verdict": False, "weights": True, "words": True},
        {"feature": 4, "crosscoder": True},
    ]
    return WITNESSES.frame([about | row for row in rows])


def no_scatter(model: str, layer: int) -> None:
    """No points of any layer."""


def planted(folder: Path, **options: Any) -> Path:
    """An explorer whose words and text fill many files, so that searches cross their borders."""
    given = {
        "features": features_of(),
        "matches": matches_of(),
        "contexts": contexts_of,
        "vocabulary": VOCABULARY,
        "n_layers": LAYERS,
        "scatter": scatter_of,
        "overlay": overlay_of,
        "places": places_of(),
        "flow": flow_of(),
        "name": "planted",
    } | options
    source = Source(**given | {"matches": given["matches"].lazy()})
    with many_files():
        return write_explorer(folder, source)


@contextmanager
def many_files() -> Iterator[None]:
    """Within it a file of the text index has few words, and one of text few sheets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheets, "TOKENS_PER_FILE", 100)
        patch.setattr(words, "ROWS_PER_FILE", 20)
        yield


def planted_run(folder: Path, *more: tuple[Table, pl.DataFrame]) -> StudyRecords:
    """A run of the tables above and `more`: its explorer is that of `planted`."""
    run = {"format": FORMAT, "name": "planted", "recipe": {}, "stages": {}}
    folder.mkdir(parents=True)
    write_record(folder / "run.json", run)
    places = Places(folder)
    features = features_of().select(list(FEATURES.schema))
    tables = (
        (FEATURES, features),
        (MATCHES, matches_of()),
        (RATINGS, ratings_of()),
        (MAP, places_of()),
        (FLOW, flow_of()),
        *more,
    )
    for table, frame in tables:
        table.write(frame, places.table(table))
    for table, of_layer in (
        (CONTEXTS, contexts_of),
        (SCATTER, scatter_of),
        (OVERLAY, overlay_of),
    ):
        for model, layer in product(LAYERS, range(3)):
            if layer < LAYERS[model] and (frame := of_layer(model, layer)) is not None:
                table.write(frame, places.table(table, model, layer))
    places.vocabulary.write_text(json.dumps(VOCABULARY), "utf-8")
    return StudyRecords(folder, run, tuple(LAYERS))


BYTES = [
    " x",
    [0xE8],
    [0x87],
    [0xAA],
    [0xAA, 0x61],
    "b",
    [0xD1],
    [0x82, 0xD0],
    [0xBE],
]  # 自 and Cyrillic
BYTE_TOKENS = [[0, 1, 2, 3], [1, 2, 4, 5], [2, 3, 5, 1], [6, 7, 8, 0], [1, 2], [3, 0]]
BYTE_VALUES = [[0, 2, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 3, 0], [1, 1], [1, 1]]


def planted_bytes(folder: Path) -> Path:
    """Five features of A whose contexts, two of the last, spell characters over several tokens."""
    contexts = CONTEXTS.frame(
        {
            "feature": [0, 1, 2, 3, 4, 4],
            "quantile": [1.0] * 6,
            "value": [2.0, 1.0, 1.0, 3.0, 1.0, 1.0],
            "document": [0] * 6,
            "window": [0] * 6,
            "position": [1, 3, 1, 2, 0, 0],
            "start": [0] * 6,
            "tokens": BYTE_TOKENS,
            "values": BYTE_VALUES,
        }
    )
    sizes = {A: (5,), B: (5,)}
    return planted(
        folder,
        features=features_of(sizes).drop("top_tokens", "explanation"),
        vocabulary=BYTES,
        scatter=no_scatter,
        matches=matches_of(sizes | {C: ()}).filter(best_model=B),
        n_layers={A: 1, B: 1},
        contexts=lambda model, layer: contexts if model == A else None,
    )


def data(index: Path, name: str) -> Any:
    """What a data file hands to the page, with its arrays."""
    text = (index.parent / "data" / f"{name}.js").read_text("ascii")
    assert text.startswith("explorer.put(") and text.endswith(");\n")
    given, value = json.loads(
        f"[{text.removeprefix('explorer.put(').removesuffix(');' + chr(10))}]"
    )
    assert given == name
    return value if name == "manifest" else _unpacked(base64.b64decode(value))


def _unpacked(packed: bytes) -> Any:
    content = zlib.decompress(packed)
    end = 4 + int.from_bytes(content[:4], "little")

    def array(found: dict[str, Any]) -> Any:
        for kind in NUMPY.keys() & found.keys():
            first, n = found[kind]
            return np.frombuffer(content[end:], NUMPY[kind], n, first)
        return found

    return json.loads(content[4:end].decode("ascii"), object_hook=array)


def contexts_in(index: Path, name: str) -> list[list[dict[str, Any]]]:
    """The contexts of each feature of a file of details, with their texts, one by one."""
    chunk, text = data(index, name), data(index, "manifest")["models"][0]["text"]
    columns, place, at = chunk["contexts"], 0, 0
    found = list[list[dict[str, Any]]]()
    for count in columns["count"].tolist():
        found.append([])
        for _ in range(count):
            names = ("hundredths", "sheet", "start", "peak", "length")
            one: dict[str, Any] = {name: int(columns[name][place]) for name in names}
            one["quantile"] = columns["quantile"][place]
            file, sheet = divmod(one["sheet"], text["sheets"])
            sheets = data(index, f"text/{text['number']}-{file}")
            first = sheet * text["width"] + one["start"]
            tokens = sheets["tokens"][first : first + one["length"]]
            one["texts"] = [sheets["texts"][token] for token in tokens]
            one["document"] = sheets["documents"][sheet]
            one["activations"] = columns["activations"][at : at + one["length"]].astype(int)
            found[-1].append(one)
            place, at = place + 1, at + one["length"]
    assert at == len(columns["activations"]) and place == len(columns["sheet"])
    return found


def words_of(index: Path, place: int, number: int) -> list[tuple[str, list[int], list[int]]]:
    """Of each word of a file of the index the rows that fire on it, and those that show it."""
    file = data(index, f"words/{place}-{number}")
    counts, steps, numbers = file["counts"].tolist(), list[int](), list[list[int]]()
    for byte in file["gaps"].tolist():
        steps.append(byte % 128)
        if byte < 128:
            numbers.append(steps)
            steps = []
    gaps = iter([sum(step * 128**i for i, step in enumerate(steps)) for steps in numbers])
    lists = [list(accumulate(next(gaps) for _ in range(count))) for count in counts]
    assert next(gaps, None) is None
    return list(zip(file["words"], lists[::2], lists[1::2], strict=True))


@lru_cache
def shown_text(model: str, layer: int) -> dict[int, list[tuple[str, bool]]]:
    """For each feature of a layer the characters of its contexts and whether their token fires.

    A space ends each context.
    """
    found: dict[int, list[tuple[str, bool]]] = {}
    table = contexts_of(model, layer)
    if table is None:
        return found
    for feature, tokens, values in table.select("feature", "tokens", "values").iter_rows():
        characters = found.setdefault(feature, [])
        for token, value in zip(tokens, values, strict=True):
            characters += [(character, value > 0) for character in VOCABULARY[token]]
        characters.append((" ", False))
    return found


def words_slowly(model: str) -> dict[str, dict[int, bool]]:
    """Words of a model and the rows that show them, with whether one fires: letter by letter."""
    found: dict[str, dict[int, bool]] = {}

    def note(word: list[tuple[str, bool]], row: int) -> None:
        if word:
            rows = found.setdefault("".join(c for c, _ in word).lower(), {})
            rows[row] = rows.get(row, False) or any(fires for _, fires in word)

    features = features_of().filter(pl.col("model") == model).sort("layer", "feature")
    for row, record in enumerate(features.iter_rows(named=True)):
        shown = list(shown_text(model, record["layer"]).get(record["feature"], []))
        for text in (*record["top_tokens"], record["explanation"] or ""):
            shown += [(character, True) for character in f"{text} "]
        word: list[tuple[str, bool]] = []
        for character, fires in shown:
            alone = "\u4e00" <= character <= "\u9fff"
            if alone or not (character.isalnum() or character == "_"):
                note(word, row)
                word = []
                note([(character, fires)] if alone else [], row)
            else:
                word.append((character, fires))
    return found
