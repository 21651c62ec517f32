"""What the page of a pair says of meaning, from small tables whose numbers are known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.analyses.meaning import CHAPTERS

from homolog.analyses import ANALYSES
from homolog.analyses.causal import causal_figure, substitution_figure
from homolog.analyses.exclusive import values as exclusive_values
from homolog.analyses.ratings.summary import section_values as ratings_values
from homolog.analyses.records import PairRecords
from homolog.analyses.relation import relation_figure
from homolog.analyses.relation import values as relation_values
from homolog.analyses.transplant import values as transplant_values
from homolog.charts.words import MISSING
from homolog.record import comparisons
from homolog.record.comparisons import MAIN, RANDOM_MODEL, ROTATED, SAE_SEED, Comparison
from homolog.record.run_folder import RunFolder
from homolog.record.sides import MAIN_LABEL
from homolog.record.table import Table
from homolog.record.tables import (
    CAUSAL_AUC,
    CURVES,
    FEATURES,
    LISTS,
    LOSS_RECOVERED,
    MATCHES,
    RATINGS,
    RELATION,
    TRANSPLANT,
)
from homolog.report.page import chapters
from homolog.report.templating import environment

A, B, OTHER = "transformer-s0", "mamba-s0", "rwkv-s0"
EVIL = "<script>window.hacked = 1</script>"
SHUFFLED = Comparison("shuffled", "baseline", "Shuffled|text", "words", lambda models: [])
Rows = Sequence[Mapping[str, Any]]


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., PairRecords]:
    """pair([(table, rows)], explored, **facts): the page of A and B in a run with those tables."""

    def make(tables: list[tuple[Table, Rows]], explored: bool = False, **facts: Any) -> PairRecords:
        run = RunFolder.open(tmp_path / "run", {"name": "small"})
        for table, rows in tables:
            table.write(table.frame(rows), run.table(table))
        if explored:
            FEATURES.write(FEATURES.frame(), run.table(FEATURES))
            run.vocabulary.write_text("[]", "utf-8")
        run.close()
        names = (A, B, OTHER)
        return PairRecords(run.path, {"compared": list(names)} | facts, names, (A, B))

    return make


def related(comparison: str, model: str, best_model: str, label: str) -> dict[str, Any]:
    direction = {"comparison": comparison, "model": model, "best_model": best_model}
    return direction | {"best_label": label, "of": "r", "measure": "token_entropy"}


def curve(about: dict[str, Any], median: float, n: int = 50) -> dict[str, Any]:
    ends = {"lo": median - 1, "hi": median + 1}
    return about | {"bin": 3, "start": 0.3, "end": 0.4, "n": n, "median": median} | ends


def rho(about: dict[str, Any], value: float) -> dict[str, Any]:
    partial = {"partial": value / 2, "partial_lo": 0.0, "partial_hi": 0.9}
    return about | {"n": 1234, "rho": value, "lo": value - 0.1, "hi": value + 0.1} | partial


def relation(*comparisons_: tuple[str, str, str, str]) -> list[tuple[Table, Rows]]:
    """Curves and correlations of (comparison, model, best_model, label); medians count from 1."""
    abouts = [related(*each) for each in comparisons_]
    curves = [curve(about, number) for number, about in enumerate(abouts, 1)]
    return [(CURVES, curves), (RELATION, [rho(about, 0.25) for about in abouts])]


def medians(records: PairRecords) -> dict[tuple[str, str], float]:
    """Of the points of the relation's figure, by panel's model and comparison."""
    figure = relation_figure(records)
    assert figure is not None
    rows = figure.spec["data"]["values"]
    return {(row["panel"].split("|")[1], row["comparison"]): row["median"] for row in rows}


MATCHED = (MAIN.name, A, B, MAIN_LABEL)
BACK = (MAIN.name, B, A, MAIN_LABEL)


def test_the_relation_is_drawn_for_results_and_baselines_of_this_pair(pair, monkeypatch):
    monkeypatch.setattr(comparisons, "COMPARISONS", [*comparisons.COMPARISONS, SHUFFLED])
    records = pair(
        relation(
            MATCHED,
            BACK,
            (ROTATED.name, A, B, "rotated"),
            (RANDOM_MODEL.name, A, "mamba-random", MAIN_LABEL),
            (SHUFFLED.name, B, A, MAIN_LABEL),
            (SAE_SEED.name, A, A, "seed1"),  # a skyline: in the table alone
            (MAIN.name, A, OTHER, MAIN_LABEL),  # of another page
        )
    )
    assert medians(records) == {
        (A, MAIN.name): 1,
        (B, MAIN.name): 2,
        (A, ROTATED.name): 3,
        (A, RANDOM_MODEL.name): 4,
        (B, SHUFFLED.name): 5,
    }
    figure = relation_figure(records)
    assert figure is not None and figure.name == "relation"
    assert f"{A}: 0.25" in figure.alt and "Entropy of its tokens: 0" in figure.read
    table = relation_values(records)["relation"]
    assert len(table.rows) == 6 and {table.rows[i][2] for i in table.strong} == {MAIN.plain}
    cells = {row[3]: row[4:] for row in table.rows}
    assert f"{A}\n→ {A}@seed1" in cells and f"{A}\n→ {B}@rotated" in cells
    assert cells[f"{A}\n→ {B}"] == ["1,234", "0.25\n(0.15, 0.35)", "0.12\n(0.00, 0.90)"]


def test_bins_of_few_features_are_not_drawn_and_controls_alone_are_no_figure(pair):
    about = related(*MATCHED)
    few = pair([(CURVES, [curve(about, 1.0, n=9)])])
    assert relation_figure(few) is None
    controls = pair(relation((ROTATED.name, A, B, "rotated")))
    assert relation_figure(controls) is None and relation_values(controls) is not None


def in_range(model: str, best_model: str, above: float, to: float, n: int = 20) -> dict[str, Any]:
    place = {"model": model, "best_model": best_model, "above_r": above, "to_r": to, "n": n}
    auc = {"kind": "ablate", "where": "here", "auc": above, "auc_lo": 0.1, "auc_hi": 0.95}
    return place | auc | {"mean": 0.5, "control_mean": float("nan")}


def replaced(model: str, best_model: str, above: float, to: float, n: int = 20) -> dict[str, Any]:
    place = {"model": model, "best_model": best_model, "above_r": above, "to_r": to, "n": n}
    return place | {"kl_recovered": above, "kl_recovered_lo": -0.1, "kl_random": 0.01}


def test_points_are_the_bins_of_both_directions(pair):
    nothing = pair([])
    assert causal_figure(nothing) is None and substitution_figure(nothing) is None
    said = {"model": B, "best_model": A, "words": f"a share of {A}"}
    other = {"model": A, "best_model": OTHER, "words": "not of this pair"}
    ranges = [
        (A, B, 0.7, 1.0),  # all close matches together: no bin
        (A, B, 0.5, 0.7),
        (B, A, 0.9, 1.0),
        (B, A, 0.8, 0.9, 2),  # too few
        (A, OTHER, 0.5, 0.7),
    ]
    later = in_range(A, B, 0.5, 0.7) | {"where": "later", "auc": 0.6}
    rows = [*(in_range(*each) for each in ranges), later]
    filled = [replaced(*each) for each in ranges]
    records = pair([(CAUSAL_AUC, rows), (LOSS_RECOVERED, filled)], causal=[said, other])
    figure = causal_figure(records)
    assert figure is not None and figure.name == "causal"
    values = figure.spec["data"]["values"]
    points = {(row["panel"], row["bin"], row["what"]): row["at"] for row in values}
    assert points == {
        (f"{A} in {B}", "0.5 to 0.7", "taken out: next token"): 0.5,
        (f"{A} in {B}", "0.5 to 0.7", "taken out: later tokens"): 0.6,
        (f"{B} in {A}", "0.9 to 1.0", "taken out: next token"): 0.9,
    }
    assert said["words"] in figure.alt and other["words"] not in figure.alt
    assert "NaN" not in json.dumps(figure.spec)
    figure = substitution_figure(records)
    assert figure is not None and figure.name == "substitution"
    values = figure.spec["data"]["values"]
    points = {(row["panel"], row["bin"], row["what"]): row["at"] for row in values}
    assert points == {
        (f"{A} in {B}", "0.5 to 0.7", "its partner"): 0.5,
        (f"{A} in {B}", "0.5 to 0.7", "a random feature"): 0.01,
        (f"{B} in {A}", "0.9 to 1.0", "its partner"): 0.9,
        (f"{B} in {A}", "0.9 to 1.0", "a random feature"): 0.01,
    }


def listed(
    rank: int, kind: str = "exclusive", model: str = A, best_model: str = B
) -> dict[str, Any]:
    feature = {"list": kind, "rank": rank, "model": model, "layer": 1, "feature": 10 + rank}
    partner = {"best_model": best_model, "best_layer": 2, "best_feature": 3}
    numbers = {"freq": 0.0125, "r": 0.321, "own_seed_r": None, "exclusive_r2": 0.456, "steps": 5}
    return feature | partner | numbers


def test_exclusive_features_are_listed_by_rank_and_lead_to_the_explorer(pair):
    rows = [listed(2), listed(1), listed(1, "shared"), listed(1, model=B, best_model=OTHER)]
    plain = exclusive_values(pair([(LISTS, rows)]))
    assert plain is not None
    own, back = plain["lists"]
    assert [row[0] for row in own.rows] == ["1 / 11", "1 / 12"] and back.rows == []
    assert (
        own.rows[0] == ["1 / 11", "1.25%", "0.321", "2 / 3", "0.456", MISSING] and own.links == []
    )
    many = [listed(rank) for rank in range(1, 31)]
    explored = exclusive_values(pair([(LISTS, many)], explored=True))
    assert explored is not None
    own = explored["lists"][0]
    assert len(own.rows) == len(own.links) == 12 and own.links[0].endswith("feature=1/11")


def test_words_are_tested_on_partners_by_whether_they_are_homologs(pair):
    def match(feature, homolog, best=B):
        sides = {"model": A, "label": MAIN_LABEL, "best_model": best, "best_label": MAIN_LABEL}
        place = {"layer": 0, "feature": feature, "best_layer": 1, "best_feature": feature}
        return {"comparison": MAIN.name, "kind": "sae", "homolog": homolog} | sides | place

    def rated(feature, partner, best=B):
        place = {"model": A, "layer": 0, "feature": feature, "best_model": best}
        found = {"partner_detection": partner, "other_detection": 0.5}
        return place | {"detection": 0.9, "best_layer": 1, "best_feature": feature} | found

    matches = [match(0, True), match(1, True), match(2, False), match(3, True, OTHER)]
    ratings = [rated(0, 0.8), rated(1, 1.0), rated(2, 0.6), rated(3, 0.1, OTHER), rated(4, None)]
    values = ratings_values(pair([(MATCHES, matches), (RATINGS, ratings)]))
    assert values is not None
    # of 0.8 and 1.0 the standard deviation is 0.141, its error 0.1
    both = "0.90 (0.70 to 1.00)"
    assert values["told"].rows == [
        [f"{A}: homologs", "2", "0.90 (0.90 to 0.90)", both, "0.50 (0.50 to 0.50)"],
        [f"{A}: others", "1", "0.90", "0.60", "0.50"],
    ]


def test_without_tests_on_partners_there_is_no_section(pair):
    assert ratings_values(pair([])) is None


def test_transplants_of_this_pair_stand_in_their_table(pair):
    row = {name: 0.5 for name in TRANSPLANT.columns if name.startswith(("ev", "feature_r"))}
    row |= {"n_train": 10, "n_test": 10, "n_features": 5, "map": "affine", "r2": 0.25}
    here = row | {"model": A, "layer": 3, "source_model": B, "source_layer": 7}
    values = transplant_values(pair([(TRANSPLANT, [here, here | {"source_model": OTHER}])]))
    assert values is not None
    assert values["transplant"].rows == [
        [f"{A} 3", f"{B} 7", "affine", "0.250", "0.500", "0.500", "0.500"]
    ]


def chapter(records: PairRecords) -> str | None:
    """The chapters on meaning as HTML; None where there are none."""
    pages = environment()
    pages.filters["named"] = lambda text: text
    found = {each.title: str(each.body) for each in chapters(ANALYSES, {"pair": records}, pages)}
    return "".join(found[title] for title in CHAPTERS if title in found) or None


def test_the_chapter_has_what_the_run_has(pair):
    assert chapter(pair([])) is None
    words = {"model": A, "best_model": B, "words": f"words {EVIL}"}
    some = chapter(pair(relation(MATCHED, BACK), causal=[words]))
    assert some is not None and EVIL not in some and "window.hacked" in some
    assert re.findall("<h3>(.*?)</h3>", some) == ["Are close matches simpler?"]
    assert "explorer/" not in some
    whole = chapter(pair([*relation(MATCHED), (LISTS, [listed(1)])], explored=True))
    assert whole is not None
    first = whole.index("explorer/index.html#from=")
    assert first < whole.index('id="figure-relation"') < whole.index("Features without a homolog")


def test_a_figure_is_json_without_undefined_numbers(pair):
    about = related(*MATCHED)
    undefined = curve(about, 1.0) | {"lo": float("nan"), "hi": float("nan")}
    figure = relation_figure(pair([(CURVES, [undefined]), (RELATION, [rho(about, float("nan"))])]))
    assert figure is not None and "NaN" not in json.dumps(figure.spec)
    assert figure.spec["data"]["values"][0]["lo"] is None and MISSING in figure.alt
    assert pl.DataFrame(figure.spec["data"]["values"])["median"].to_list() == [1.0]
