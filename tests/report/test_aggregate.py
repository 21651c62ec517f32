from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from homolog.charts import theme
from homolog.charts.words import (
    as_toml,
    chance,
    integer,
    level,
    listed,
    number,
    percent,
    seconds,
    size,
)
from homolog.report import aggregate, read_pair


@pytest.fixture(scope="module")
def records(make_run, tmp_path_factory):
    return read_pair(make_run(tmp_path_factory.mktemp("aggregate") / "run"))


def test_share_curve_passes_through_the_planted_share(records):
    rows = aggregate.share_curves(records, "sae")
    at = {
        row["panel"]: row["share"]
        for row in rows
        if row["comparison"] == "main" and row["r"] == 0.7
    }
    assert at == {
        "Features of transformer-s0": 0.65,
        "Features of mamba-s0": 0.5,
    }  # none lies between 0.69 and 0.71


def test_undefined_features_are_left_out_not_zero(records):
    assert (
        len(aggregate.defined_r(records, "sae", "main", "A")) == 180
    )  # 200 less the tenth that is undefined


def test_smoothing_keeps_the_total_also_at_the_ends():
    counts = np.zeros(40)
    counts[[0, 20, 39]] = [5, 3, 7]
    assert aggregate.smooth(counts).sum() == pytest.approx(15)


def test_ridges_are_small_whatever_the_number_of_features(records):
    rows = aggregate.ridges(records, "sae")
    assert len(rows) < 5 * 2 * 130
    assert max(row["top"] - row["base"] for row in rows) <= aggregate.RIDGE_HEIGHT + 1e-9


def test_depth_is_the_share_of_blocks_passed(records):
    row = next(row for row in aggregate.depths(records) if row["series"] == "all")
    main = records.matches.filter(
        (pl.col("comparison") == "main") & (pl.col("side") == "A") & (pl.col("layer") == 0)
    )
    defined = main.filter(pl.col("r").is_finite())
    assert row["depth"] == 0.25  # block 0 of 4
    assert row["n"] == defined.height
    assert row["mean"] == pytest.approx(
        float(np.mean((defined["best_layer"].to_numpy() + 1) / 8)), abs=1e-4
    )


def test_layer_means_share_axes_and_mark_the_best(records):
    rows = aggregate.layer_means(records)
    best = {
        (row["a"], row["b"])
        for row in rows
        if row["panel"] == "Features of transformer-s0" and row["best"]
    }
    assert best == {
        (0, 1),
        (1, 3),
        (2, 5),
        (3, 7),
    }  # same relative depth: (a + 1) / 4 == (b + 1) / 8


def test_dictionaries_are_told_apart_in_words(records):
    rows = aggregate.quality(records)
    found = {(row["dictionary"], row["family"], row["variant"]) for row in rows}
    assert ("mamba-s0", "mamba-s0", "compared") in found
    assert ("mamba-s0 (seed1)", "mamba-s0", "second dictionary seed") in found
    assert ("transformer-s1", "transformer-s0", "second training seed") in found
    assert ("mamba-random", "mamba-s0", "untrained model") in found
    assert not any(
        row["variant"] == "untrained model" and row["panel"] == "Loss recovered" for row in rows
    )


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_every_colour_stands_out_in_light_and_in_dark():
    marks = [*theme.COMPARISON_COLOURS.values(), *theme.SPARE_COLOURS, *theme.MODEL_COLOURS]
    for light, dark in marks:
        assert (
            contrast(light, theme.BACKGROUND[0]) >= 3 and contrast(dark, theme.BACKGROUND[1]) >= 3
        ), (
            light,
            dark,
        )
    for light, dark in (theme.INK, theme.MUTED):
        assert (
            contrast(light, theme.BACKGROUND[0]) >= 4.5
            and contrast(dark, theme.BACKGROUND[1]) >= 4.5
        )
    lights = [light for light, _ in (*marks, theme.INK, theme.MUTED, theme.GRID, theme.BACKGROUND)]
    assert len(set(lights)) == len(lights)  # each light colour has one dark counterpart


def test_stages_of_a_kind_are_one_bar(make_run, tmp_path):
    stages = {"dictionaries a": 2.0, "match main": 1.5, "dictionaries b": 3.0, "report": 9.0}
    entries = {name: {"status": "done", "seconds": s, "outputs": {}} for name, s in stages.items()}
    records = read_pair(make_run(tmp_path / "run", edit=lambda run: run.update(stages=entries)))
    bars = {row["stage"]: row["seconds"] for row in aggregate.stage_groups(records)}
    assert bars == {
        "dictionaries (2\u00d7)": 5.0,
        "match": 1.5,
    }  # the report's own stage is left out


def test_numbers_in_words():
    assert number(-0.0004, 2) == "0.00" and number(float("nan")) == "–" and number(None) == "–"  # noqa: RUF001
    assert (
        percent(0.0004) == "<0.1%"
        and percent(0.034) == "3.4%"
        and percent(0.0997) == "10%"
        and percent(1) == "100%"
    )
    assert chance(0.0004) == "<0.001" and chance(0.0126) == "0.013" and chance(float("nan")) == "–"  # noqa: RUF001
    assert level(0.01) == "1%" and level(0.005) == "0.5%"
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c" and listed([]) == ""
    assert (
        seconds(0.421) == "0.42 s"
        and seconds(245) == "4 min 05 s"
        and seconds(7800) == "2 h 10 min"
    )
    assert size(1536 * 2**20) == "1.50 GiB" and integer(1_059_000) == "1,059,000"


def test_the_recipe_is_toml():
    import tomllib

    recipe = {
        "name": 'a "quoted" name',
        "sae": {"l1": 0.3, "kinds": ["relu", "topk"], "limit": None},
        "odd key": {"on": True},
        "sets": [{"n": 1}, {"n": 2}],
    }
    expected = {
        "name": 'a "quoted" name',
        "sae": {"l1": 0.3, "kinds": ["relu", "topk"]},
        "odd key": {"on": True},
        "sets": [{"n": 1}, {"n": 2}],
    }
    assert tomllib.loads(as_toml(recipe)) == expected
