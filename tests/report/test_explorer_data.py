"""The files of the explorer, read back by code of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.report.pages import EVIL, files_of
from tests.report.planted_features import (
    BYTE_VALUES,
    LAYERS,
    SIZES,
    VOCABULARY,
    A,
    B,
    C,
    contexts_in,
    contexts_of,
    data,
    features_of,
    flow_of,
    many_files,
    matches_of,
    no_scatter,
    places_of,
    planted,
    planted_bytes,
    planted_run,
    witnesses_of,
    words_of,
    words_slowly,
)

from homolog.errors import InputError
from homolog.record.tables import CAUSAL, CONTEXTS, LISTS
from homolog.report.explorer import explore
from homolog.report.explorer.packing import UNDEFINED, quantised, septets, write_plain
from homolog.report.explorer.rows import NO_ROW
from homolog.report.explorer.words import words_in


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted(tmp_path_factory.mktemp("explorer"))


def values_of(column: dict) -> np.ndarray:
    """Values by the equation of packing.py, in plain Python."""
    out = []
    for code in column["codes"].tolist():
        if code == UNDEFINED:
            out.append(np.nan)
        elif column["log"]:
            out.append(
                np.exp(column["lo"] + (column["hi"] - column["lo"]) * (code - 1) / 65533)
                if code
                else 0.0
            )
        else:
            out.append(column["lo"] + (column["hi"] - column["lo"]) * code / 65534)
    return np.array(out)


def test_a_column_keeps_its_values() -> None:
    linear = np.array([-1.0, 1.0, 0.3, np.nan])
    np.testing.assert_allclose(
        values_of(quantised(linear)), linear, atol=1 / 65534
    )  # half of (1 - -1) / 65534
    spread = np.array([0.0, 1e-6, 3e-4, 1.0, np.nan])
    step = np.log(1e6) / 65533
    found = values_of(quantised(spread, log=True))
    np.testing.assert_allclose(found, spread, rtol=0.51 * step)
    assert found[0] == 0
    assert quantised(np.array([np.nan, np.nan]))["codes"].tolist() == [UNDEFINED, UNDEFINED]
    assert values_of(quantised(np.array([0.5, 0.5]))).tolist() == [0.5, 0.5]
    assert values_of(quantised(np.zeros(2), log=True)).tolist() == [0, 0]


def test_small_numbers_take_one_byte() -> None:
    assert septets(np.array([0, 1, 127])).tolist() == [0, 1, 127]
    assert septets(np.array([128, 5, 300])).tolist() == [128, 1, 5, 300 % 128 + 128, 2]
    assert septets(np.array([2**35 - 1])).tolist() == [255] * 4 + [127]


def test_columns_stand_in_the_order_of_rows(index: Path) -> None:
    known = data(index, "manifest")
    assert [model["name"] for model in known["models"]] == [A, B, C]
    assert [tuple(model["sizes"]) for model in known["models"]] == list(SIZES.values())
    assert known["pairs"] == [[0, 1], [0, 2], [1, 0]] and known["classified"]
    r = values_of(data(index, "columns/0-1-r"))
    wanted = [1 - f / 200 if f != 2 else np.nan for size in SIZES[A] for f in range(size)]
    np.testing.assert_allclose(r, wanted, atol=1e-5)  # the comparison main, not the control's 0.999
    best = data(index, "columns/1-0-best")["codes"]
    assert [best[0], best[2], best[40]] == [1, NO_ROW, 1]
    homolog = data(index, "columns/0-1-homolog")
    verdicts = [homolog["words"][code] for code in homolog["codes"][[0, 2, 39, 40]]]
    assert verdicts == ["yes", "", "yes", "no"]
    token = data(index, "columns/0-token")
    words = [token["words"][code] for code in token["codes"]]
    assert words[:4] == [" the", " cat", "s", " the"] and token["words"] == sorted(token["words"])
    columns = {column["name"]: column for column in known["columns"]}
    assert set(columns) == {
        "r",
        "excess",
        "freq",
        "token_entropy",
        "complexity",
    }  # token_r2 is null everywhere
    assert columns["r"]["of"] == ["0-1", "0-2", "1-0"] and columns["freq"]["of"] == ["0", "1", "2"]


def test_details_come_back(index: Path) -> None:
    table = contexts_of(A, 0)
    assert table is not None
    for feature in (0, 1, 127, 129):
        name, within = f"features/0-0-{feature // 128}", feature % 128
        wanted = table.filter(feature=feature).sort("quantile", "value", descending=True)
        shown, record = contexts_in(index, name)[within], data(index, name)["features"][within]
        assert len(shown) == len(wanted) == (5 if feature else 0)
        if not shown:
            assert "scale" not in record
            continue
        largest = max(value for row in wanted["values"].to_list() for value in row)
        assert record["scale"] == pytest.approx(largest, rel=1e-4)
        for given, row in zip(shown, wanted.iter_rows(named=True), strict=True):
            assert given["start"] == row["start"] and given["quantile"] == row["quantile"]
            assert given["start"] + given["peak"] == row["position"]
            assert given["document"] == row["document"]
            assert given["hundredths"] == round(100 * row["value"])
            assert given["texts"] == [VOCABULARY[token] for token in row["tokens"]]
            found = given["activations"] / 255 * largest
            np.testing.assert_allclose(found, row["values"], atol=largest / 255)
            assert ((found > 0) == (np.array(row["values"]) > 0)).all()


def test_windows_stand_once_in_the_text(tmp_path: Path) -> None:
    """Ten features show three pieces each of one window of 40 tokens; two others say otherwise."""
    window, features = list(range(20)) * 2, [(f, place) for f in range(10) for place in range(3)]
    pieces = [(f, 10 * place, window[10 * place :][:20]) for f, place in features]
    pieces += [(10, 5, [7, 7, 7]), (11, 5, [5, 6, 7])]  # what stands at 5 is 5, 6, 7
    rows = [
        {"feature": f, "quantile": 1.0, "value": 1.0, "document": 3, "window": 8, "position": start}
        | {"start": start, "tokens": tokens, "values": [1.0] * len(tokens)}
        for f, start, tokens in pieces
    ]
    contexts = CONTEXTS.frame(rows)
    only = {(A, 0): contexts}
    index = planted(tmp_path, contexts=lambda *layer: only.get(layer))
    shown = contexts_in(index, "features/0-0-0")
    for f, start, tokens in pieces:
        (given,) = (one for one in shown[f] if one["start"] == start)
        assert given["texts"] == [VOCABULARY[token] for token in tokens]
        assert (given["sheet"], given["document"]) == (int(f == 10), 3)
    first = data(index, "text/0-0")
    assert data(index, "manifest")["models"][0]["text"]["width"] == 40
    assert [first["texts"][token] for token in first["tokens"][:40]] == [
        VOCABULARY[token] for token in window
    ]


def test_an_example_of_33_tokens_takes_few_bytes(tmp_path: Path) -> None:
    """130 features with 28 each, of 16 windows of 128 tokens: as JSON a context has 200 bytes."""
    rng = np.random.default_rng(0)
    text, rows = rng.integers(0, len(VOCABULARY), (16, 128)), []
    for i in range(28 * 130):
        window, start, value = int(rng.integers(16)), int(rng.integers(96)), 10 * rng.random()
        values = np.where(np.arange(33) == 24, value, 0.0).tolist()
        tokens = text[window, start : start + 33].tolist()
        place = {"document": window, "window": window, "start": start, "position": start + 24}
        rows.append(
            place
            | {"feature": i // 28, "quantile": 1.0, "value": value}
            | {"tokens": tokens + [0] * (33 - len(tokens)), "values": values}
        )
    only = {(A, 0): CONTEXTS.frame(rows)}
    index = planted(tmp_path, contexts=lambda *layer: only.get(layer), scatter=no_scatter)
    bare = planted(tmp_path / "bare", contexts=lambda *layer: None, scatter=no_scatter)

    def size(index: Path, *names: str) -> int:
        return sum(
            file.stat().st_size for name in names for file in (index.parent / "data").glob(name)
        )

    details = ("features/0-0-*.js", "text/*.js")
    assert size(index, *details) - size(bare, *details) < 15 * len(rows)


def test_a_record_says_what_was_measured_and_nothing_else(index: Path) -> None:
    first, second, third = data(index, "features/0-0-0")["features"][:3]
    assert (
        first["n_active"] == 0
        and first["explanation"] == f"Names of cities {EVIL}"
        and first["complexity"] == 2
    )
    assert "token_entropy" not in first and "token_r2" not in first and "suppressed" not in first
    assert "explanation" not in second
    assert second["near"] == [[0, 0.75], [1, 0.5]] and second["token_entropy"] == 0.0625
    match = second["matches"]["1"]
    assert match == {
        "r": 0.995,
        "excess": 0.495,
        "q": 1e-4,
        "homolog": True,
        "mutual": True,
        "best": [0, 1, 0.995],
        "runner_up": [0, 2, 0.25],
    }
    assert first["matches"]["1"]["partner"] == [0, 0, 0.125]
    assert "best" not in third["matches"]["1"] and "r" not in third["matches"]["1"]
    assert set(second["matches"]) == {"1", "2"} and set(second["scatter"]) == {"1"}
    points = second["scatter"]["1"]
    assert points["x"].tolist() == [0, 128, 255] and points["top"] == [2, 10]
    assert "near" not in data(index, "features/0-0-0")["features"][5]


def test_overlays_say_where_the_other_fires(index: Path) -> None:
    assert data(index, "manifest")["overlaid"] == ["0-0"]
    last = len(top_example(B, 0)["tokens"]) - 1
    chunk = data(index, "overlay/0-0-0")
    assert set(chunk) == {"1"}
    assert {name: list(column) for name, column in chunk["1"].items()} == {
        "count": [0, 4],
        "rank": [0, 1, 0, 1],
        "partner": [0, 0, 1, 1],
        "fires": [1, 0, 1, 0],
        "at": [1, last],  # " Par", "is": the second token
        "values": [3, 2],
    }
    assert data(index, "overlay/0-0-1") == {}
    assert len(list((index.parent / "data" / "overlay").iterdir())) == 2


def test_places_are_those_of_all_models_in_one_square(index: Path) -> None:
    assert data(index, "manifest")["mapped"]
    wide, high = 129, 66  # the highest: layer 2 of B
    for place, (model, above) in enumerate(((A, 0), (B, 64))):
        columns = data(index, f"map/{place}")
        x, y = (columns[name].tolist() for name in "xy")
        places = [(layer, f) for layer, size in enumerate(SIZES[model]) for f in range(size)]
        for code, other, (layer, f) in zip(x, y, places, strict=True):
            if f == 4:
                assert code == other == UNDEFINED
            else:
                assert code == pytest.approx(65534 * f / wide, abs=1)
                middle = (above + layer + (wide - high) / 2) / wide
                assert other == pytest.approx(65534 * middle, abs=1)
    assert set(data(index, "map/2")["x"].tolist()) == {UNDEFINED}


def test_a_run_without_places_has_no_map(tmp_path: Path) -> None:
    for name, places in (("none", None), ("empty", places_of().clear())):
        index = planted(tmp_path / name, places=places)
        assert not data(index, "manifest")["mapped"]
        assert not (index.parent / "data" / "map").exists()


def top_example(model: str, layer: int) -> dict:
    """The strongest context of feature 1."""
    table = contexts_of(model, layer)
    assert table is not None
    return table.filter(feature=1, quantile=1.0, rank=0).row(0, named=True)


@pytest.mark.parametrize("place, model", list(enumerate((A, B, C))))
def test_the_index_has_every_word_and_no_other(index: Path, place: int, model: str) -> None:
    firsts = data(index, "manifest")["models"][place]["words"]
    files = [words_of(index, place, number) for number in range(len(firsts))]
    assert len(files) > 1 and len(
        list((index.parent / "data" / "words").glob(f"{place}-*"))
    ) == len(files)
    words = [word for file in files for word, _, _ in file]
    assert words == sorted(set(words)) and firsts == [file[0][0] for file in files]
    found = rows_of_words(index, place)
    wanted = words_slowly(model)
    assert found == wanted
    for _, firing, showing in (entry for file in files for entry in file):
        assert firing == sorted(firing) and showing == sorted(showing)
    if model == A:
        assert {"paris", "中", "__proto__", "overshadow", "cities", "ﾊﾛ", "𐐨𐐩"} <= set(wanted)
        assert {fires for rows in wanted.values() for fires in rows.values()} == {True, False}


def rows_of_words(index: Path, place: int = 0) -> dict[str, dict[int, bool]]:
    """The words of a model, with their rows and whether the feature fires there."""
    numbers = range(len(data(index, "manifest")["models"][place]["words"]))
    return {
        word: dict.fromkeys(firing, True) | dict.fromkeys(showing, False)
        for number in numbers
        for word, firing, showing in words_of(index, place, number)
    }


def test_characters_of_several_tokens_are_shown_and_found(tmp_path: Path) -> None:
    index, values = planted_bytes(tmp_path), [value for row in BYTE_VALUES for value in row]
    shown = [one for of_feature in contexts_in(index, "features/0-0-0") for one in of_feature]
    assert [text for one in shown for text in one["texts"]] == [
        " x",
        "",
        "",
        "自",
        "",
        "",
        "自a",
        "b",
        "<87>",
        "<AA>",
        "b",
        "<E8>",
        "",
        "\u0442",
        "\u043e",
        " x",
        "<E8>",
        "<87>",
        "<AA>",
        " x",
    ]
    fires = np.concatenate([one["activations"] for one in shown]) > 0
    assert fires.tolist() == [value > 0 for value in values]
    found = rows_of_words(index)
    assert found["自"] == {
        0: True,
        1: False,
    }  # the feature fires on its first byte alone; on what follows it
    assert (
        found["ab"] == {1: True}
        and found["\u0442\u043e"] == {3: True}
        and found["x"] == {0: False, 3: False, 4: True}
    )
    assert set(found) == {"x", "自", "ab", "\u0442\u043e", "87", "aa", "b", "e8"}


def test_words_are_runs_of_letters_and_single_ideographs() -> None:
    assert words_in("The cat's 2x, naïve_é") == ["the", "cat", "s", "2x", "naïve_é"]
    assert words_in("中文abc") == ["中", "文", "abc"]


def test_no_file_can_end_a_script(index: Path, tmp_path: Path) -> None:
    files = files_of(index.parent)
    plain = write_plain(tmp_path, "manifest", [EVIL])
    files["data/plain"] = plain.read_bytes()
    for name, content in files.items():
        if name.startswith("data/"):
            assert content.isascii() and b"<" not in content, name
    assert data(tmp_path / "index.html", "manifest") == [EVIL]
    assert EVIL in data(index, "features/0-0-0")["features"][0]["promoted"]


def test_the_same_tables_give_the_same_bytes_over_an_older_explorer(
    index: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "explorer"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "old.js").write_text("from an older version")
    shuffled = features_of().sample(fraction=1.0, shuffle=True, seed=0)
    again = planted(
        folder, features=shuffled, matches=matches_of().sample(fraction=1.0, shuffle=True, seed=0)
    )
    assert files_of(again.parent) == files_of(index.parent)


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    columns = [
        "comparison",
        "model",
        "layer",
        "feature",
        "r",
        "best_model",
        "best_layer",
        "best_feature",
    ]
    index = planted(
        tmp_path,
        features=features_of().select("model", "layer", "feature"),
        scatter=no_scatter,
        contexts=lambda model, layer: None,
        matches=matches_of().filter(comparison="main").select(columns),
    )
    known = data(index, "manifest")
    assert [column["name"] for column in known["columns"]] == ["r"]
    assert not known["classified"] and not any(model["tokens"] for model in known["models"])
    chunk = data(index, "features/0-0-0")
    assert set(chunk) == {"features"} and set(chunk["features"][0]) == {"matches"}


def test_the_tables_of_a_run_make_its_explorer(index: Path, tmp_path: Path) -> None:
    with many_files():
        explore(planted_run(tmp_path / "run"), tmp_path / "report")
    assert files_of(tmp_path / "report" / "explorer") == files_of(index.parent)


def test_what_analyses_found_stands_with_the_feature(tmp_path: Path) -> None:
    own = {"model": A, "layer": 0, "feature": 3}
    agreements = ((True, 0.25), (True, 0.75), (True, np.nan), (False, 0.9))  # the last: a control
    causal = CAUSAL.frame([own | {"matched": m, "ablate_r": r} for m, r in agreements])
    predicted = (("exclusive", 0.25), ("exclusive", 0.5), ("shared", 0.875))
    lists = LISTS.frame([own | {"list": name, "exclusive_r2": r2} for name, r2 in predicted])
    explore(planted_run(tmp_path / "run", (CAUSAL, causal), (LISTS, lists)), tmp_path)
    index = tmp_path / "explorer" / "index.html"
    _, second, _, fourth = data(index, "features/0-0-0")["features"][:4]
    assert (fourth["causal_r"], fourth["exclusive_r2"], fourth["complexity"]) == (0.5, 0.5, 2)
    assert not {"causal_r", "exclusive_r2", "complexity"} & second.keys()
    columns = {column["name"]: column["of"] for column in data(index, "manifest")["columns"]}
    assert columns["causal_r"] == columns["exclusive_r2"] == ["0"]


def test_contexts_are_asked_for_once_layer_by_layer(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def contexts(model: str, layer: int) -> pl.DataFrame | None:
        asked.append((model, layer))
        return contexts_of(model, layer)

    planted(tmp_path, contexts=contexts)
    assert asked == [(A, 0), (A, 1), (B, 0), (B, 2), (C, 0)]  # layer 1 of B has no features


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: {"features": features_of().filter(pl.col("feature") != 3)}, "once each"),
        (lambda: {"features": pl.concat([features_of(), features_of()])}, "once each"),
        (lambda: {"features": features_of().drop("layer")}, "must have the columns layer"),
        (lambda: {"n_layers": {A: 2, B: 3}}, "each model must have a number of layers"),
        (lambda: {"n_layers": LAYERS | {A: 1}}, f"{A}, layer 1"),
        (
            lambda: {"matches": matches_of().filter(pl.col("comparison") == "rotated")},
            "the comparison main",
        ),
        (lambda: {"vocabulary": VOCABULARY[:-1]}, "tokens that exist"),
        (
            lambda: {"contexts": lambda model, layer: contexts_of(B, 2)},
            "features and tokens that exist",
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    tmp_path: Path, wrong: Callable[[], dict], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        planted(tmp_path, **wrong())


def test_flows_come_back(index: Path) -> None:
    """Every layer that the flow knows; layer 1 of B has no dictionary, and C was not followed."""
    table = flow_of()
    known = data(index, "manifest")["flows"]
    assert known == ["0-0", "0-1", "1-0", "1-2"]
    for place in known:
        number, layer = map(int, place.split("-"))
        own = table.filter(model=(A, B)[number], layer=layer).sort("feature")
        sides = data(index, f"flow/{place}")
        for way, which in (("before", "ancestor"), ("after", "descendant")):
            if own[f"{which}_layer"][0] < 0:
                assert sides[way] is None
                continue
            assert sides[way]["layer"] == own[f"{which}_layer"][0]
            found = sides[way]["feature"].astype(np.int64)
            wanted = own[f"{which}_feature"].to_numpy()
            assert np.array_equal(np.where(found == NO_ROW, -1, found), wanted)
            r = own[f"{which}_r"].to_numpy()
            np.testing.assert_allclose(values_of(sides[way]["r"]), r, atol=1e-4)
            np.testing.assert_allclose(values_of(sides[way]["cosine"]), r / 2, atol=1e-4)
            assert np.array_equal(sides[way]["counts"] == 1, r >= 0.5)


def test_witnesses_stand_with_their_features_and_against_each_other(tmp_path: Path) -> None:
    index = planted(tmp_path, witnesses=witnesses_of())
    known = data(index, "manifest")
    assert known["against"] == {"0-1": ["verdict-weights", "weights-verdict", "words-verdict"]}
    column = data(index, "columns/0-1-witnesses")
    said = [column["words"][code] for code in column["codes"][:6]]
    assert said == [
        "verdict yes, weights yes",
        "verdict yes, weights no",
        "",
        "verdict no, weights yes, words yes",
        "crosscoder yes",
        "",
    ]
    records = data(index, "features/0-0-0")["features"]
    matches = [record.get("matches", {}).get("1", {}) for record in records]
    assert [match.get("witnesses", "") for match in matches[:6]] == said
    assert not (index.parent / "data" / "columns" / "0-2-witnesses.js").exists()


def test_without_witnesses_there_is_nothing_to_ask_of_them(index: Path) -> None:
    assert data(index, "manifest")["against"] == {}
