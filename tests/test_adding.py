"""What docs/adding.md shows works: each example is added from outside the package and run."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.pipeline.outcome import RECIPE, leave_undrawn
from tests.report.pages import pages_from

import homolog
from homolog import InputError, Study, dictionaries, load_recipe, run_study
from homolog.analyses import ANALYSES
from homolog.dictionaries import KINDS, plant
from homolog.dictionaries.formats import FORMATS, register
from homolog.models.architectures import ADAPTERS
from homolog.models.sites import KINDS as SITE_KINDS
from homolog.pipeline import SilentProgress, parse_saes
from homolog.pipeline.recipes import sparsity_of
from homolog.record.comparisons import COMPARISONS

PAGE = Path(__file__).parents[1] / "docs" / "adding.md"
MOST_LINES, MOST_LETTERS = 40, 100


def examples() -> dict[str, str]:
    """The examples of the page by the name of their module."""
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    return dict(blocks)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the examples as modules; what they register is gone after the test."""
    for name, text in examples().items():
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    lists: list[Any] = [COMPARISONS, ANALYSES]
    tables: list[Any] = [KINDS, FORMATS, ADAPTERS, SITE_KINDS]
    before = [copy(known) for known in (*lists, *tables)]
    yield tmp_path
    for known, kept in zip(lists, before[: len(lists)], strict=True):
        known[:] = kept
    for known, kept in zip(tables, before[len(lists) :], strict=True):
        for name in known.keys() - kept.keys():
            del known[name]
    for name in examples():
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", examples())
def test_an_example_is_short(name: str) -> None:
    lines = [line for line in examples()[name].splitlines() if line.strip()]
    assert len(lines) < MOST_LINES
    assert max(map(len, lines)) <= MOST_LETTERS


def test_a_kind_trains_is_saved_loaded_and_finds_planted_features(outside: Path) -> None:
    importlib.import_module("root")
    truth = plant(40_000, 24, 32, seed=0, mean_active=2.0, keep_active=True)
    config = dictionaries.parse_config({"kind": "root", "d_sae": 32, "root": 0.5})
    training = dictionaries.TrainingConfig(n_tokens=320_000)
    source = dictionaries.ResidualArrays([truth.x], seed=0)
    [sae] = dictionaries.train(source, config, training, model="planted")["sae"]
    x = truth.x[:8_000]

    dictionaries.save(sae, outside / "saved")
    loaded = dictionaries.load(outside / "saved")
    assert loaded.kind == "root" and torch.equal(loaded.encode(x), sae.encode(x))
    dictionaries.convert(outside / "saved", outside / "llamascopium", "llamascopium")
    converted = dictionaries.load(outside / "llamascopium")
    torch.testing.assert_close(converted.encode(x), sae.encode(x), atol=1e-4, rtol=1e-4)

    documents = np.repeat(np.arange(200), 40)
    matches = homolog.match(truth.active[:8_000], loaded.encode_sparse(x), documents=documents)
    table = matches.table
    planted = table.filter(pl.col("model") == table["model"][0])
    assert np.median(planted["r"].to_numpy()) > 0.8
    assert (planted["q"].to_numpy() < 0.05).mean() > 0.8  # the null has two draws of 32 features


def test_a_kind_has_its_settings_in_recipes(outside: Path) -> None:
    importlib.import_module("root")
    recipe = parse_saes(model="zoo:mamba-s0", kind="root", root=0.25)
    assert recipe.of_kind == {"kind": "root", "root": 0.25} and sparsity_of(recipe, 128) == 0.25
    with pytest.raises(InputError, match=r"--l1.*belongs to relu or gated, and --kind is root"):
        parse_saes(model="zoo:mamba-s0", kind="root", l1=1.0)
    with pytest.raises(InputError, match="another kind has this name"):
        dictionaries.register(type(KINDS["root"])())


def test_a_format_is_written_recognised_and_read(outside: Path) -> None:
    importlib.import_module("notebook")
    generator = torch.Generator().manual_seed(0)
    W_enc, W_dec = torch.randn(6, 9, generator=generator), torch.randn(9, 6, generator=generator)
    b_enc, b_dec = torch.randn(9, generator=generator), torch.randn(6, generator=generator)
    about = {"model": "mine", "layer": 2}
    sae = dictionaries.SparseAutoencoder(W_enc, b_enc, W_dec, b_dec, metadata=about)
    dictionaries.save(sae, outside / "own")
    dictionaries.convert(outside / "own", outside / "theirs", "notebook")
    assert (outside / "theirs" / "notebook.json").is_file()

    x = torch.randn(50, 6, generator=generator)
    stored = load_file(outside / "theirs" / "weights.safetensors")
    f = (x @ stored["E"] + stored["e"]).relu()  # their own forward pass
    read = dictionaries.load(outside / "theirs")
    torch.testing.assert_close(read.encode(x), f, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read.encode(x), sae.encode(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read.reconstruct(x), f @ stored["D"] + stored["d"])
    assert (read.metadata["model"], read.metadata["layer"]) == ("mine", 2)
    origin = read.metadata["origin"]
    assert origin["format"] == "our notebooks"
    assert set(origin["files"]) == {"notebook.json", "weights.safetensors"}


def test_a_format_refuses_what_it_cannot_hold_and_what_is_damaged(outside: Path) -> None:
    importlib.import_module("notebook")
    weights = torch.ones(3, 4), torch.zeros(4), torch.ones(4, 3), torch.zeros(3)
    topk = dictionaries.SparseAutoencoder(*weights, kind="topk", k=2)
    with pytest.raises(InputError, match="a notebook holds a plain ReLU"):
        dictionaries.save(topk, outside / "topk", format="notebook")
    dictionaries.save(dictionaries.SparseAutoencoder(*weights), outside / "x", format="notebook")
    with pytest.raises(InputError, match="it must not hold a dictionary already"):
        dictionaries.convert(outside / "x", outside / "x", "homolog")
    save_file({"E": weights[0], "e": weights[1]}, outside / "x" / "weights.safetensors")
    with pytest.raises(InputError, match=r"D in .*missing.*there with shape \(4, 3\)"):
        dictionaries.load(outside / "x")
    with pytest.raises(InputError, match="another format has this name"):
        register(replace(FORMATS["notebook"], library="others"))


def test_an_architecture_loads_from_a_folder_with_its_sites(outside: Path) -> None:
    shift = importlib.import_module("shift")
    torch.manual_seed(0)
    shift.ShiftForCausalLM(shift.ShiftConfig()).save_pretrained(outside / "model")
    model = homolog.load(outside / "model")
    assert (model.architecture, model.n_layers, model.d_model) == ("shift", 3, 16)
    tokens = torch.randint(0, 97, (2, 7), generator=torch.Generator().manual_seed(0))
    run = model.run(tokens, capture=["resid.0", "before.1", "resid.1"])
    stream = run["resid.0"]
    before = torch.cat([torch.zeros(2, 1, 16), stream[:, :-1]], dim=1)
    torch.testing.assert_close(run["before.1"], before)
    torch.testing.assert_close(run["resid.1"], stream + model.hf.blocks[1](before))
    # what is added at a position reaches the next one through the block's weights alone
    add = homolog.Add("before.2", torch.ones(16), positions=[-1])
    edited = model.run(tokens, edits=[add])
    assert edited.logits is not None and run.logits is not None
    change = edited.logits - run.logits
    expected = model.hf.lm_head(model.hf.blocks[2].weight.sum(1)).expand(2, -1)
    torch.testing.assert_close(change[:, -1], expected, atol=1e-5, rtol=1e-5)
    assert not change[:, :-1].any()


@pytest.mark.slow
def test_a_comparison_and_an_analysis_run_through_a_study_into_its_report(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_undrawn(monkeypatch.setattr)
    importlib.import_module("mirrored")
    importlib.import_module("drift")
    (outside / "added.toml").write_text(RECIPE)
    page = run_study(load_recipe(outside / "added.toml"), outside / "run", SilentProgress())
    study = Study.load(outside / "run")

    mirrored = study.matches.filter(comparison="mirrored", label="sae")
    assert set(mirrored["best_label"]) == {"mirrored"} and mirrored["r"].is_finite().any()
    main = study.matches.filter(comparison="main")
    key = ["model", "layer", "feature"]
    control = main.join(mirrored.select(*key, other="r"), on=key).filter(
        pl.col("other").is_finite()
    )
    assert (control["control_r"] >= control["other"]).all()

    ends = study.matches.filter(comparison="main").filter(pl.col("best_layer") >= 0)
    drift = ends.group_by("model").agg((pl.col("best_layer") - pl.col("layer")).mean())
    assert dict(study.drift.select("model", "drift").rows()) == pytest.approx(dict(drift.rows()))

    text = "".join(page.read_text("utf-8") for page in pages_from(page))
    assert "A mirrored dictionary" in text and 'id="drift"' in text
    assert all(f"<p>{model}: " in text for model in study.drift["model"])
    assert (page.parent / "figures" / "drift.vl.json").is_file()
    assert "drift.parquet" in text
