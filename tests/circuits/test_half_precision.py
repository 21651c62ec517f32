"""Circuits in half precision: all runs, and says what float32 says within its rounding."""

from __future__ import annotations

import pytest
import torch
from tests.circuits.ablated import ablated_logits
from tests.models.helpers import ONE_EACH, tiny

import homolog
from homolog.circuits.discovery import discover
from homolog.circuits.edges import nodes
from homolog.circuits.evaluation import CircuitEvaluation, Scoring
from homolog.circuits.induction import trace_induction
from homolog.circuits.off_by_one import off_by_one
from homolog.circuits.paths import Paths
from homolog.circuits.prompts import Prompts
from homolog.corpus.tasks import induction

HALF = [torch.bfloat16, torch.float16]
KEYS = {"zoo:transformer-s0": "z.", "zoo:mamba-s0": "state."}


def pairs_of(model, n=6):
    return induction(model, n, seed=3, length=12, corruption="replace_B")


def close(found, expected, dtype, factor):
    """Within `factor` roundings of the largest value."""
    error = (found.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert error < factor * torch.finfo(dtype).eps, float(error)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("case", ONE_EACH)
def test_paths(case, dtype):
    wide, half = tiny(case), tiny(case, dtype)
    pairs = pairs_of(wide)
    paths = [Paths(m, pairs.clean, pairs.corrupt) for m in (wide, half)]
    at = {"B": pairs.positions["B"]}
    asked = {
        "mamba": [
            lambda p: p.readouts_to_logits(),
            lambda p: p.states_to_logits(),
            lambda p: p.writes_to_logits("y.1", at),
            lambda p: p.taps_to_write("y.1", at["B"], {"two": [0, 1]}),
            lambda p: p.parts_to_part("y.2"),
        ]
    }.get(
        case,
        [
            lambda p: p.readouts_to_logits(),
            lambda p: p.parts_to_part("z.2.1", at),
            lambda p: p.writes_to_logits("z.1.0", at),
        ],
    )
    close(paths[1].logits, paths[0].logits, dtype, 30)
    for ask in asked:
        for ours, exact in zip(ask(paths[1]), ask(paths[0]), strict=True):
            assert ours.senders == exact.senders and ours.logits.isfinite().all()
            # a dozen products, each rounded; logits of size one
            close(ours.logits, exact.logits, dtype, 30)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("case", ONE_EACH)
def test_discovery(case, dtype):
    wide, half = tiny(case), tiny(case, dtype)
    pairs = pairs_of(wide)
    exact, found = (discover(m, pairs, n_top=3, n_random=3, batch=4) for m in (wide, half))
    keys = ["sender", "receiver", "tap", "position"]
    joined = exact.edges.join(found.edges, on=keys, how="full", suffix="_half", nulls_equal=True)
    assert len(joined) == len(exact.edges) == len(found.edges)
    scores = [torch.tensor(joined[name].to_numpy()) for name in ("score_half", "score")]
    # differences of activations: each is rounded, and so is what it is taken from
    close(*scores, dtype, 60)
    assert found.validation["effect"].is_finite().all()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("case", ONE_EACH)
@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_evaluation(case, how, dtype):
    wide, half = tiny(case), tiny(case, dtype)
    pairs = pairs_of(wide)
    circuit = nodes(wide)[::2]
    exact, found = (
        CircuitEvaluation(m, pairs, circuit, Scoring(ablation=how)).metric_with([circuit, []])
        for m in (wide, half)
    )
    assert found.isfinite().all()
    assert (found - exact).abs().max() < 30 * torch.finfo(dtype).eps * exact.abs().max().clamp_min(
        1
    )
    ours = ablated_logits(half, pairs.clean, circuit, how, pairs.corrupt)
    close(ours, ablated_logits(wide, pairs.clean, circuit, how, pairs.corrupt), dtype, 30)


def circuit_of(ref, dtype):
    """The key component, its offset, and the component of the best edge."""
    prompts = Prompts(n_prompts=24, length=40, repeat=8, seed=1)
    model = homolog.load(ref, dtype=dtype)
    key = trace_induction(model, prompts).key
    pairs = induction(model, 8, seed=1, length=40, repeat=8)
    edges = discover(model, pairs, n_top=2, n_random=2, steps=2)
    return key, off_by_one(model, prompts, key).offset, edges.components(20)["node"][0]


@pytest.mark.slow
@pytest.mark.parametrize("ref", list(KEYS))
def test_a_trained_model_has_the_same_key_component(ref):
    exact = circuit_of(ref, torch.float32)
    assert exact[0].startswith(KEYS[ref])
    for dtype in HALF:
        assert circuit_of(ref, dtype) == exact, dtype
