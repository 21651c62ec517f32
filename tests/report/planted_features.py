"""Three small models whose features, matches and contexts are known."""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.report.pages import EVIL

from homolog.report.explorer import Source, words, write_explorer

A, B, C = "transformer-s0", "mamba-s0", "rwkv-s0"
LAYERS = {A: 2, B: 3, C: 1}
SIZES = {
    A: (130, 6),
    B: (40, 0, 60),
    C: (3,),
}  # 130: a chunk of 128 and a bit; layer 1 of B has none
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
    """Feature f of layer l fires on f tokens; every third has an explanation; feature 5 has no
    neighbours.
    """
    rows = []
    for model, per_layer in sizes.items():
        for layer, size in enumerate(per_layer):
            for f in range(size):
                rows.append(
                    {
                        "model": model,
                        "layer": layer,
                        "feature": f,
                        "n_active": f,
                        "freq": f / 1000,
                        "mean_active": 1.5,
                        "max": 2.0 + f,
                        "token_entropy": float("nan") if f == 0 else f / 16,
                        "token_r2": None,
                        "promoted": [" cat", EVIL],
                        "suppressed": [],
                        "near_feature": [] if f == 5 else [0, 1],
                        "near_cosine": [] if f == 5 else [0.75, 0.5],
                        "top_tokens": [VOCABULARY[f % 3], " Par"],
                        "explanation": f"Names of cities {EVIL}" if f % 3 == 0 else None,
                        "complexity": 2 if f % 3 == 0 else None,
                    }
                )
    types = {"layer": pl.Int32, "feature": pl.Int32, "n_active": pl.Int64, "token_r2": pl.Float32}
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides=types)


def matches_of(sizes: dict[str, tuple[int, ...]] = SIZES) -> pl.DataFrame:
    """r falls with the feature's number from 1 in steps of 1/200; feature 2 is undefined; the best
    is always 0 / 1.
    """
    rows = []
    for model, target in ((A, B), (B, A), (A, C)):
        for layer, size in enumerate(sizes[model]):
            for f in range(size):
                none = f == 2
                rows.append(
                    {
                        "comparison": "main",
                        "model": model,
                        "layer": layer,
                        "feature": f,
                        "r": float("nan") if none else 1 - f / 200,
                        "best_model": target,
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
    types = {
        "layer": pl.Int32,
        "feature": pl.Int32,
        "best_layer": pl.Int32,
        "best_feature": pl.Int32,
    }
    table = pl.DataFrame(rows, infer_schema_length=None, schema_overrides=types)
    control = table.with_columns(comparison=pl.lit("rotated"), r=pl.lit(0.999))
    return pl.concat([control, table])


def contexts_of(model: str, layer: int) -> pl.DataFrame | None:
    """Random contexts of a layer, in random order: none of features that 7 divides, none at all in
    layer 1 of A.

    The strongest of feature 1 is " Paris", firing on its end.
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
    types = {"feature": pl.Int32, "tokens": pl.List(pl.Int32), "values": pl.List(pl.Float32)}
    names = (
        "feature",
        "quantile",
        "rank",
        "row",
        "document",
        "window",
        "position",
        "value",
        "start",
        "tokens",
        "values",
    )
    table = (
        pl.DataFrame(rows, schema_overrides=types)
        if rows
        else pl.DataFrame(schema=dict.fromkeys(names, pl.Int32))
    )
    return table.sample(fraction=1.0, shuffle=True, seed=1) if rows else None


def scatter_of(model: str, layer: int) -> pl.DataFrame | None:
    """Three points for feature 1 of each layer of A and its partner in B."""
    if model != A:
        return None
    points = {
        "feature": [1],
        "best_model": [B],
        "scatter_x": [[0.0, 1.0, 2.0]],
        "scatter_y": [[0.0, 5.0, 10.0]],
    }
    return pl.DataFrame(points, schema_overrides={"feature": pl.Int32})


def no_scatter(model: str, layer: int) -> None:
    """No points of any layer."""


def planted(folder: Path, **options: Any) -> Path:
    """An explorer whose words fill many files, so that searches cross their borders."""
    given = {
        "features": features_of(),
        "matches": matches_of(),
        "contexts": contexts_of,
        "vocabulary": VOCABULARY,
        "n_layers": LAYERS,
        "scatter": scatter_of,
        "name": "planted",
    } | options
    source = Source(**given | {"matches": given["matches"].lazy()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "CHARACTERS_PER_FILE", 100)
        return write_explorer(folder, source)


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
    """Five features of A whose contexts spell characters over several tokens; the last has two
    contexts.
    """
    contexts = pl.DataFrame(
        {
            "feature": [0, 1, 2, 3, 4, 4],
            "quantile": 1.0,
            "value": [2.0, 1.0, 1.0, 3.0, 1.0, 1.0],
            "document": 0,
            "position": [1, 3, 1, 2, 0, 0],
            "start": 0,
            "tokens": BYTE_TOKENS,
            "values": BYTE_VALUES,
        },
        schema_overrides={
            "feature": pl.Int32,
            "tokens": pl.List(pl.Int32),
            "values": pl.List(pl.Float32),
        },
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
    """What a data file hands to the page."""
    text = (index.parent / "data" / f"{name}.js").read_text("ascii")
    assert text.startswith("explorer.put(") and text.endswith(");\n")
    given, value = json.loads(
        f"[{text.removeprefix('explorer.put(').removesuffix(');' + chr(10))}]"
    )
    assert given == name
    return value


def unpacked(column: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(column["codes"]), NUMPY[column["type"]])


@lru_cache
def shown_text(model: str, layer: int) -> dict[int, list[tuple[str, bool]]]:
    """For each feature of a layer all characters of its contexts and whether their token fires; a
    space ends each.
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
    """Words of a model and the rows that show them, with whether one fires on it: one character at
    a time.
    """
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
