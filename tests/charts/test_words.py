"""How numbers, durations, lists and recipes are written."""

from __future__ import annotations

import tomllib

from homolog.charts.words import (
    MISSING,
    as_toml,
    chance,
    integer,
    interval,
    level,
    number,
    percent,
    seconds,
    size,
)
from homolog.record.names import listed


def test_what_is_undefined_is_a_dash() -> None:
    nan = float("nan")
    assert [number(nan), number(None), integer(None), percent(nan), chance(nan)] == [MISSING] * 5
    assert interval({"mean_lo": nan, "mean_hi": 0.5}, "mean") == "no interval"


def test_numbers_in_words() -> None:
    assert number(-0.0004, 2) == "0.00" and number(-0.5) == "\N{MINUS SIGN}0.50"
    shares = {0.0004: "<0.1%", 0.034: "3.4%", 0.0997: "10%", 1: "100%"}
    assert {share: percent(share) for share in shares} == shares
    assert chance(0.0004) == "<0.001" and chance(0.0126) == "0.013"
    assert level(0.01) == "1%" and level(0.005) == "0.5%"
    assert interval({"mean_lo": 0.1, "mean_hi": 0.25}, "mean", 1) == "0.1 to 0.2"
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c" and listed([]) == ""
    times = {0.421: "0.42 s", 245: "4 min 05 s", 7800: "2 h 10 min"}
    assert {time: seconds(time) for time in times} == times
    assert size(1536 * 2**20) == "1.50 GiB" and integer(1_059_000) == "1,059,000"


def test_the_recipe_is_toml() -> None:
    recipe = {
        "name": 'a "quoted" name',
        "sae": {"l1": 0.3, "kinds": ["relu", "topk"], "limit": None},
        "odd key": {"on": True},
        "sets": [{"n": 1}, {"n": 2}],
    }
    sae = {"l1": 0.3, "kinds": ["relu", "topk"]}
    assert tomllib.loads(as_toml(recipe)) == recipe | {"sae": sae}
    assert "seeds = [0, 1]\n" in as_toml({"sae": {"seeds": [0, 1], "names": ["a", "b"], "l1": 4.0}})
