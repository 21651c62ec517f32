"""What the report says of the run itself."""

from __future__ import annotations

from tests.analyses.planted_run import make_run

from homolog.analyses import ANALYSES, Analysis
from homolog.analyses.records import read_study
from homolog.record.table import Column, Table
from homolog.record.tables import CONTEXTS, MATCHES, RATINGS
from homolog.report.run_sections import files, stage_groups, warnings


def test_stages_of_a_kind_are_one_bar(tmp_path):
    stages = {"dictionaries a": 2.0, "match main": 1.5, "dictionaries b": 3.0, "report": 9.0}
    entries = {name: {"status": "done", "seconds": s, "outputs": {}} for name, s in stages.items()}
    records = read_study(make_run(tmp_path / "run", edit=lambda run: run.update(stages=entries)))
    bars = {row["stage"]: row["seconds"] for row in stage_groups(records)}
    assert bars == {"dictionaries (2\u00d7)": 5.0, "match": 1.5}  # the report's own is left out


def test_the_files_are_the_tables_that_the_run_has(tmp_path):
    path = make_run(tmp_path / "run")
    mine = Table("mine", "thing", {"n": Column(MATCHES.columns["n_active"].type, "things")})
    mine.write(mine.frame({"n": [1]}), path / mine.file)
    (path / CONTEXTS.name / "transformer-s0").mkdir(parents=True)
    listed = files(read_study(path), [*ANALYSES, Analysis("mine", tables=(mine,))])
    assert ("matches.parquet", MATCHES.file, MATCHES.rows) in listed
    assert ("contexts", "contexts/MODEL/LAYER.parquet", CONTEXTS.rows) in listed
    assert ("mine.parquet", "mine.parquet", "one row per thing") in listed
    assert RATINGS.file not in [file for _, file, _ in listed] and listed[-1][0] == "run.json"


def test_what_failed_and_what_was_built_again_is_a_warning(tmp_path):
    def edit(run):
        run["failed"] = {"causal": {"error": "no memory"}}
        run["rebuilt"] = ["saes/x"]

    words = warnings(read_study(make_run(tmp_path / "run", edit=edit)))
    assert "causal" in words[0] and "no memory" in words[0]
    assert words[1].startswith("3 of 812 documents") and words[-1] == "Built again: saes/x"
