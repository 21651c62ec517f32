"""The circuits: tables read and checked, rows of the figures, words, drawing."""

from __future__ import annotations

import math

import polars as pl
import pytest
from tests.report.planted_circuits import MAMBA, TRANSFORMER, role, write_circuits

from homolog.errors import InputError
from homolog.report import circuit_rows, write_report
from homolog.report.circuit_charts import circuit_figures
from homolog.report.circuit_drawing import COLUMNS, drawing
from homolog.report.circuit_records import in_sequence, place_of, read_circuits
from homolog.report.circuit_tables import ability_table, effect_tables, role_rows
from homolog.report.circuit_words import circuit_findings, component_words, misleading, task_words


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_circuits(write_circuits(tmp_path_factory.mktemp("circuits") / "run"))


def test_a_run_without_circuits_has_none(make_run, tmp_path):
    assert read_circuits(make_run(tmp_path / "run")) is None


def test_a_part_finds_the_patch_that_shows_it(records):
    carrier, upstream = records.parts(MAMBA, "previous-token carrier")
    patch = records.patch(carrier)
    assert (patch["experiment"], patch["corruption"]) == (
        "convolution into the write at B",
        "replace_A",
    )
    assert patch["probability"] == pytest.approx(-3 / 20) and patch["kl"] == pytest.approx(3 / 4)
    assert records.patch(upstream)["receiver"] == "state.5"
    assert records.patch(role("copier", "state.5", -8.0, 10) | {"model": MAMBA}) is None


def test_roles_are_aligned_and_show_every_metric(records):
    rows = role_rows(records)
    assert [row.role for row in rows] == ["previous-token carrier", "matcher", "copier"]
    assert [[part.component for part in parts] for parts in rows[2].parts] == [
        ["z.2.1", "z.3.0"],
        ["state.5"],
    ]
    copier = rows[2].parts[0][0]
    assert (copier.name, copier.share, copier.change) == (
        "Head 2.1",
        "60%",
        "\u22126.00 (\u22126.60 to \u22125.40)",
    )
    assert copier.others == "probability \u22120.300, KL 1.500"


def test_heads_outline_the_parts(records):
    rows = circuit_rows.head_cells(records, "head to logits")
    assert len(rows) == 2 * 4 * 4
    assert {row["sender"] for row in rows if row["part"]} == {"z.1.2", "z.2.1", "z.3.0"}
    assert (
        rows[0]["panel"] == "transformer-s0: another B"
    )  # before the other prompt, though it was asked later
    assert next(row for row in rows if row["sender"] == "z.2.1")["kl"] == 1.5


def test_offsets_are_shares_of_the_drop_where_it_is(records):
    rows = [row for row in circuit_rows.offset_profiles(records) if row["model"] == MAMBA]
    assert {row["panel"] for row in rows} == {
        "mamba-s0: writes of block 5"
    }  # write.0 carries 0.1 of 8.1
    by = {row["offset"]: row for row in rows}
    assert (by[0]["share"], by[1]["share"], by[2]["share"]) == (2 / 8, 6 / 8, 0)
    assert (by[1]["low"], by[1]["high"]) == (5.6 / 8, 6.4 / 8)
    assert (
        by[1]["null_high"] == 0.2 / 8 and by[1]["predicted"] == 0.75 and by[1]["of_model"] == 0.9877
    )  # 8 / 8.1
    assert all(
        r["predicted"] is None
        for r in circuit_rows.offset_profiles(records)
        if r["model"] == TRANSFORMER
    )


def test_positions_stand_in_the_order_of_the_prompt():
    assert in_sequence(["B", "all", "A", "B-3", "B+1", "B-2"]) == [
        "B-3",
        "B-2",
        "A",
        "B",
        "B+1",
        "all",
    ]
    assert in_sequence(["A+1", "A", "A-1"]) == ["A-1", "A", "A+1"]


def test_names_of_components():
    assert place_of("z.2.3@A+1") == place_of("z.2.3 key") == (2, 3)
    assert component_words("z.2.3@A+1") == "head 2.3 (its key at A+1)"
    assert component_words("conv_taps.5@A") == "the convolution of block 5 (its tap at A)"


def test_only_edges_patched_for_real_are_drawn(records):
    assert len(circuit_rows.validated_edges(records)) == 2 * 2 * 4
    assert (
        circuit_rows.validated_edges(records)[-1]["edge"]
        == "conv_in.0 \u2192 conv_taps.0 (tap 3) at B"
    )


def edges_of(rows):
    """Role, start and end of each edge."""
    found = {}
    for row in rows:
        if row["kind"] == "edge":
            found.setdefault(row["edge"], []).append(row)
    return [
        (points[0]["role"], points[0]["share"], points[0]["x"], points[-1]["x"])
        for points in found.values()
    ]


def test_the_drawing_leads_from_the_tokens_to_the_answer(records):
    rows = drawing(records, TRANSFORMER, 4)
    nodes = {(row["role"], row["component"]): row for row in rows if row["kind"] == "node"}
    assert len(nodes) == 4
    assert [row["label"] for row in rows if row["kind"] == "label"] == [
        "1.2",
        "2.1",
        "3.0",
    ]  # 2.1 once, in two roles
    assert [row["label"] for row in rows if row["kind"] == "block"] == [
        "block 1",
        "block 2",
        "block 3",
    ]
    carrier, matcher = (
        nodes["previous-token carrier", "head 1.2"],
        nodes["matcher", "head 2.1 (its key at A+1)"],
    )
    edges = edges_of(rows)
    assert ("previous-token carrier", 0.5, COLUMNS["A"], carrier["x"]) in edges
    assert ("previous-token carrier", 0.5, carrier["x"], matcher["x"]) in edges
    assert ("matcher", 0.6, COLUMNS["end"], matcher["x"]) in edges
    assert ("copier", 0.2, nodes["copier", "head 3.0"]["x"], COLUMNS["end"]) in edges
    assert len(edges) == 2 + 1 + 2 * 2
    assert [(row["x"], row["x2"]) for row in rows if row["kind"] == "same"] == [
        (matcher["x"], nodes["copier", "head 2.1"]["x"])
    ]


def test_an_upstream_block_leads_to_the_block_its_patch_went_into(records):
    rows = drawing(records, MAMBA, 4)
    nodes = {(row["role"], row["component"]): row for row in rows if row["kind"] == "node"}
    upstream, matcher = (
        nodes["previous-token carrier", "the scan of block 1"],
        nodes["matcher", "the scan of block 5"],
    )
    assert ("previous-token carrier", 0.15, upstream["x"], matcher["x"]) in edges_of(rows)
    assert upstream["y"] < matcher["y"]


def test_large_models_stay_small_and_lanes_apart(tmp_path):
    records = read_circuits(write_circuits(tmp_path / "run", size=(12, 12, 24)))
    figures = {figure.name: figure for figure in circuit_figures(records)}
    assert sum(len(str(figure.spec)) for figure in figures.values()) < 400_000
    assert len(figures["heads"].spec["data"]["values"]) == 2 * 144
    for model in (TRANSFORMER, MAMBA):
        places = [
            (row["x"], row["y"]) for row in drawing(records, model, 4) if row["kind"] == "node"
        ]
        assert min(math.dist(a, b) for i, a in enumerate(places) for b in places[:i]) > 0.3


def test_findings_of_a_pair(records):
    found = circuit_findings(records)
    assert (found.status, found.title) == ("clear", "Both circuits have the same three parts")
    said = {item.title: dict(item.models) for item in found.findings}
    assert said["Copying"][TRANSFORMER] == "head 2.1 (60%) and head 3.0 (20%)."
    assert said["Is that all of it?"][MAMBA].startswith("90% (88% to 92%), all other scans")
    assert said["Off by one?"][MAMBA].startswith(
        "B is carried by the position after it: off by one; largest at B+1 in 100%"
    )
    assert said["Found again?"][MAMBA] == "75% of the parts above."
    assert task_words(records).startswith(
        "A prompt is 16 random tokens, and the last 4 repeat 4 earlier ones"
    )


def test_findings_of_one_model_and_of_one_that_cannot(tmp_path):
    one = read_circuits(write_circuits(tmp_path / "one", (MAMBA,)))
    assert circuit_findings(one).title == "The circuit has all three parts"
    two = read_circuits(write_circuits(tmp_path / "two", (MAMBA,), cannot=("tiny",)))
    found = circuit_findings(two)
    assert (found.status, found.title) == ("caution", "1 of 2 models has all three parts")
    assert found.reasons == ["tiny cannot do the task, so it has no circuit."]
    assert (
        "tiny",
        "cannot do the task: tiny puts the answer above the wrong one in 53% of the prompts.",
    ) in (found.findings[0].models)
    assert ability_table(two).rows[1][-2:] == ["cannot do the task", "\u2013"]
    none = read_circuits(write_circuits(tmp_path / "none", (), cannot=("tiny",)))
    assert circuit_findings(none).title == "No model does the task"
    assert circuit_figures(none) == []


def test_a_part_whose_interval_reaches_zero_does_not_count(tmp_path):
    path = write_circuits(tmp_path / "run")
    roles = pl.read_parquet(path / "roles.parquet")
    unsure = (pl.col("model") == MAMBA) & (pl.col("role") == "matcher")
    roles.with_columns(
        pl.when(unsure).then(0.1).otherwise("change_hi").alias("change_hi")
    ).write_parquet(path / "roles.parquet")
    found = circuit_findings(read_circuits(path))
    assert found.reasons == ["mamba-s0: no matcher above 5% of what the corruption costs."]


def test_raw_logits_that_mislead_are_named(tmp_path):
    path = write_circuits(tmp_path / "run")
    assert misleading(read_circuits(path)) == []
    effects = pl.read_parquet(path / "effects.parquet")
    loud = (pl.col("sender") == "y.7") & (pl.col("metric") == "logit")
    effects.with_columns(
        pl.when(loud).then(-16.5).otherwise("change").alias("change")
    ).write_parquet(path / "effects.parquet")
    (sentence,) = misleading(read_circuits(path))
    assert (
        "the raw logit falls most with y.7 (\u221216.50; probability 0.000), the probability with "
        "y.5" in sentence
    )


def test_the_patches_that_cost_most_come_first(records):
    table = effect_tables(records)[1]
    first = next(row for row in table.rows if row[0] == "convolution into the write at B")
    assert first[1:3] == ["another A", "conv_in.5 at A \u2192 write.5@B"]
    assert first[4:] == ["\u22121.50", "\u22120.150", "0.750"]


@pytest.mark.parametrize(
    "damage, named",
    [
        (lambda run: (run / "roles.parquet").unlink(), r"roles\.parquet"),
        (
            lambda run: (run / "edges.parquet").write_bytes(b"not parquet"),
            r"edges\.parquet.*not readable",
        ),
        (lambda run: rewrite(run, "effects", lambda t: t.drop("change_lo")), "change_lo"),
        (
            lambda run: rewrite(run, "roles", lambda t: t.with_columns(share=pl.lit("much"))),
            r"roles\.parquet.*types",
        ),
        (lambda run: rewrite(run, "circuits", lambda t: pl.concat([t, t])), "one row a model"),
        (
            lambda run: rewrite(run, "offsets", lambda t: t.with_columns(model=pl.lit("stranger"))),
            "stranger",
        ),
    ],
)
def test_damaged_tables_are_named(tmp_path, damage, named):
    path = write_circuits(tmp_path / "run")
    damage(path)
    with pytest.raises(InputError, match=f"(?s){named}"):
        write_report(path)


def rewrite(run, name, change):
    change(pl.read_parquet(run / f"{name}.parquet")).write_parquet(run / f"{name}.parquet")


def test_a_run_with_neither_is_refused_as_before(tmp_path):
    path = write_circuits(tmp_path / "run")
    for file in path.glob("*.parquet"):
        file.unlink()
    with pytest.raises(
        InputError, match=r"matches\.parquet, .*saes\.parquet and shared\.parquet are missing"
    ):
        write_report(path)
