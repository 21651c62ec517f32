"""The released circuit numbers, compared with those of random models of the same shape."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference.tiny_models import tiny_gpt_neox, tiny_mamba

from homolog.circuits import released
from homolog.circuits.metrics import measure
from homolog.circuits.paths import Paths
from homolog.corpus.tasks import induction
from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.gpt_neox import GPTNeoX
from homolog.models.mamba import Mamba

N_PROMPTS, BATCH, SEED = 5, 3, 7


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pythia() -> LanguageModel:
    return GPTNeoX(
        "tiny pythia", tiny_gpt_neox(num_hidden_layers=12, num_attention_heads=12, hidden_size=48)
    )


@pytest.fixture(scope="module")
def mamba() -> LanguageModel:
    return Mamba("tiny mamba", tiny_mamba(num_hidden_layers=24, hidden_size=16))


@pytest.fixture(scope="module")
def pythia_rows(pythia: LanguageModel) -> list[dict[str, Any]]:
    return released.compare(pythia, N_PROMPTS, SEED, BATCH)


@pytest.fixture(scope="module")
def mamba_rows(mamba: LanguageModel) -> list[dict[str, Any]]:
    return released.compare(mamba, N_PROMPTS, SEED, BATCH)


def test_the_data_has_the_shapes_of_the_models() -> None:
    shapes = {
        "state to logits": (24,),
        "y to logits": (24,),
        "convolution into the write at A+1": (2,),
        "convolution into the write at A+2": (3,),
        "state write by position": (4,),
        "head to logits": (12, 12),
        "head to z.5.0": (5, 12),
    }
    assert {e.name for e in released.experiments()} == set(shapes)
    for experiment in released.experiments():
        values = experiment.patched or experiment.change
        assert set(values) == ({"logit", "probability"} if experiment.patched else {"logit"})
        assert set(experiment.clean) <= set(values)
        for metric, numbers in values.items():
            assert np.shape(numbers) == shapes[experiment.name], (experiment.name, metric)
            assert np.isfinite(numbers).all()
        assert len(experiment.places) == math.prod(shapes[experiment.name])
        assert all(0 <= p < 1 for p in np.ravel(experiment.patched.get("probability", [])))


def test_the_data_says_what_was_found() -> None:
    """The strongest senders that the paper names."""
    strongest = {}
    for e in released.experiments():
        values = np.ravel((e.patched or e.change)["logit"])
        strongest[e.name] = e.places[int(np.argmin(values))]
    assert strongest == {
        "state to logits": "state.17",
        "y to logits": "y.21",
        "convolution into the write at A+1": "A+1, A",
        "convolution into the write at A+2": "A+2, A+1",
        "state write by position": "write.17@2",
        "head to logits": "z.5.0",
        "head to z.5.0": "z.3.2",
    }


def test_every_released_number_has_one_row(
    pythia_rows: list[dict[str, Any]], mamba_rows: list[dict[str, Any]]
) -> None:
    n_clean = {"pythia": 2 + 1, "mamba": 2 + 2 + 1 + 1}
    assert len(pythia_rows) == n_clean["pythia"] + 2 * (144 + 60)
    assert len(mamba_rows) == n_clean["mamba"] + 2 * (24 + 24 + 2 + 3) + 4
    for rows in (pythia_rows, mamba_rows):
        assert len({(r["experiment"], r["place"], r["metric"]) for r in rows}) == len(rows)
        assert all(math.isfinite(r["ours"]) for r in rows)
        changes = [
            r
            for r in rows
            if r["place"] != released.CLEAN and r["metric"] in _clean_metrics(r["experiment"])
        ]
        assert all(
            math.isfinite(r["released_change"]) and math.isfinite(r["our_change"]) for r in changes
        )


def _clean_metrics(name: str) -> list[str]:
    experiment = next(e for e in released.experiments() if e.name == name)
    return list(experiment.clean or experiment.change)


def test_rows_are_differences_of_the_two_sides(
    pythia_rows: list[dict[str, Any]], mamba_rows: list[dict[str, Any]]
) -> None:
    for r in (*pythia_rows, *mamba_rows):
        for difference, ours, theirs in (
            ("deviation", "ours", "released"),
            ("change_deviation", "our_change", "released_change"),
        ):
            assert r[difference] == pytest.approx(r[ours] - r[theirs], nan_ok=True)
    (key,) = [
        r
        for r in pythia_rows
        if (r["experiment"], r["place"], r["metric"]) == ("head to logits", "z.5.0", "logit")
    ]
    assert key["released_change"] == pytest.approx(-2.35, abs=0.005)
    (write,) = [r for r in mamba_rows if r["place"] == "write.17@2"]
    assert (
        math.isnan(write["released"])
        and write["released_change"] == -9.13
        and "decay" in write["note"]
    )


def test_ours_are_direct_calls_on_the_transformer(
    pythia: Any, pythia_rows: list[dict[str, Any]]
) -> None:
    pairs = induction(pythia, N_PROMPTS, seed=SEED, length=64, corruption="unrelated")
    assert int(pairs.positions["A"].max()) < 32
    with torch.no_grad():
        paths = Paths(pythia, pairs.clean, pairs.corrupt)
        heads = measure(torch.cat([a.logits for a in paths.readouts_to_logits()]), pairs)
        through = measure(
            torch.cat([a.logits for a in paths.parts_to_part("z.5.0", {"": pairs.positions["B"]})]),
            pairs,
        )
    clean = measure(paths.logits, pairs)
    for metric in ("logit", "probability"):
        same(pythia_rows, "head to logits", metric, heads[metric], clean[metric])
        same(pythia_rows, "head to z.5.0", metric, through[metric], clean[metric])


def test_ours_are_direct_calls_on_the_mamba(mamba: Any, mamba_rows: list[dict[str, Any]]) -> None:
    def pairs_of(corruption: str, **more: Any) -> Any:
        return induction(mamba, N_PROMPTS, seed=SEED, corruption=corruption, **more)

    other_b, unrepeated, other = (
        pairs_of(c) for c in ("replace_B", "unrepeated", "unrepeated_replace_AB")
    )
    long = pairs_of("replace_B", length=129, first_index=0)
    a, at = other.positions["A"], {str(p): torch.full((N_PROMPTS,), p) for p in (1, 2, 3, 4)}
    asked = {
        "state to logits": (other_b, lambda p: p.states_to_logits()),
        "y to logits": (unrepeated, lambda p: p.readouts_to_logits()),
        "convolution into the write at A+1": (
            other,
            lambda p: p.taps_to_write("y.12", a + 1, {"1": [0], "2": [0, 1]}),
        ),
        "convolution into the write at A+2": (
            other,
            lambda p: p.taps_to_write("y.17", a + 2, {"1": [0], "2": [0, 1], "3": [0, 1, 2]}),
        ),
        "state write by position": (long, lambda p: p.writes_to_logits("y.17", at)),
    }
    for name, (pairs, question) in asked.items():
        with torch.no_grad():
            paths = Paths(mamba, pairs.clean, pairs.corrupt)
            found = measure(torch.cat([answer.logits for answer in question(paths)]), pairs)
        clean = measure(paths.logits, pairs)
        for metric in ("logit",) if name == "state write by position" else ("logit", "probability"):
            same(mamba_rows, name, metric, found[metric], clean[metric])


def same(
    rows: list[dict[str, Any]], name: str, metric: str, patched: torch.Tensor, clean: torch.Tensor
) -> None:
    chosen = [r for r in rows if (r["experiment"], r["metric"]) == (name, metric)]
    ours = torch.tensor([r["ours"] for r in chosen if r["place"] != released.CLEAN])
    changes = torch.tensor([r["our_change"] for r in chosen if r["place"] != released.CLEAN])
    torch.testing.assert_close(ours, patched.mean(-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(changes, (patched - clean).mean(-1), rtol=1e-3, atol=1e-5)
    for r in chosen:
        if r["place"] == released.CLEAN:
            assert r["ours"] == pytest.approx(float(clean.mean()), rel=1e-5)


def test_progress_counts_the_prompts_of_every_experiment(mamba: LanguageModel) -> None:
    done: list[int] = []
    released.compare(mamba, 3, SEED, 2, done.append)
    assert sum(done) == 3 * len(released.released_for(mamba)) == 15 and set(done) == {1, 2}


def test_models_of_other_shapes_are_refused() -> None:
    message = (
        r"model is 'small', but numbers were released for EleutherAI/pythia-160m \(12 layers of "
        r"12 heads\) and "
        r"state-spaces/mamba-130m \(24 layers\)"
    )
    for model in (GPTNeoX("small", tiny_gpt_neox()), Mamba("small", tiny_mamba())):
        with pytest.raises(InputError, match=message):
            released.compare(model)
