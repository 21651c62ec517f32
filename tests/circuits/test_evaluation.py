"""Ablation against hooks on the modules; scores of a planted circuit; definitions by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from tests.circuits.ablated import ablated_logits
from tests.reference.tiny_models import tiny_gpt_neox, tiny_mamba
from torch import Tensor

from homolog.circuits.ablation import HOWS
from homolog.circuits.edges import nodes
from homolog.circuits.evaluation import CircuitEvaluation, Scoring
from homolog.circuits.metrics import measure
from homolog.corpus.tasks import PromptPairs, induction
from homolog.errors import InputError
from homolog.models import LanguageModel, Site
from homolog.models.gpt_neox import GPTNeoX
from homolog.models.mamba import Mamba

PAIRS = induction(range(97), 10, length=12)


pytestmark = pytest.mark.usefixtures("one_thread")


def neox() -> GPTNeoX:
    return GPTNeoX("tiny", tiny_gpt_neox().requires_grad_(False))


def mamba() -> Mamba:
    return Mamba("tiny", tiny_mamba().requires_grad_(False))


def by_hooks(
    model: LanguageModel, tokens: Tensor, source: Tensor, ablate: list[Site], how: str
) -> Tensor:
    """Last logits: hooks put the ablated values into the modules, one whole pass for all."""

    def module(site: Site) -> torch.nn.Module:
        if isinstance(model, Mamba):
            return model.hf.backbone.layers[site.layer].mixer.out_proj
        block = model.hf.gpt_neox.layers[site.layer]
        return block.attention.dense if site.kind == "head_out" else block.mlp.dense_4h_to_h

    def part(site: Site) -> tuple[slice, slice, slice]:
        width = slice(None) if site.head is None else slice(8 * site.head, 8 * site.head + 8)
        return (
            slice(None),
            slice(None) if site.position is None else slice(site.position, site.position + 1),
            width,
        )

    values: dict[Site, Tensor] = {}
    for edit in (False, True):
        handles = []
        for site in ablate:

            def put(x: Tensor, site: Site = site, edit: bool = edit) -> Tensor:
                if not edit:
                    values[site] = x[part(site)]
                    return x
                value = {"zero": 0 * values[site], "mean": values[site].mean(0, keepdim=True)}.get(
                    how, values[site]
                )
                x = x.clone()
                x[part(site)] = value
                return x

            if site.kind == "head_out":
                handles.append(
                    module(site).register_forward_pre_hook(lambda _m, a, put=put: (put(a[0]),))
                )
            else:
                handles.append(
                    module(site).register_forward_hook(lambda _m, _a, out, put=put: put(out))
                )
        logits = model.hf(tokens if edit else source).logits
        for handle in handles:
            handle.remove()
    return logits[:, -1]


def test_the_nodes_are_heads_and_mlps_or_mixers() -> None:
    assert list(map(str, nodes(neox())))[:6] == [
        "head_out.0.0",
        "head_out.0.1",
        "head_out.0.2",
        "head_out.0.3",
        "mlp_out.0",
        "head_out.1.0",
    ]
    assert len(nodes(neox())) == 15
    assert list(map(str, nodes(mamba()))) == ["mixer_out.0", "mixer_out.1", "mixer_out.2"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("make", "ablate"),
    [
        (neox, ["head_out.0.1", "head_out.0.3", "mlp_out.1", "head_out.2.0"]),
        (neox, ["head_out.1.2@4", "head_out.1.2@7", "head_out.1.0", "mlp_out.0@11"]),
        (mamba, ["mixer_out.0", "mixer_out.2"]),
        (mamba, ["mixer_out.0@3", "mixer_out.0@4", "mixer_out.1@11"]),
    ],
)
def test_ablation_equals_hooks_on_the_modules(make: Callable, ablate: list[str], how: str) -> None:
    model = make()
    expected = by_hooks(model, PAIRS.clean, PAIRS.corrupt, [Site.parse(a) for a in ablate], how)
    got = ablated_logits(model, PAIRS.clean, ablate, how, PAIRS.corrupt, batch=4)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)
    assert (got - model.hf(PAIRS.clean).logits[:, -1]).abs().max() > 1e-3


def planted() -> GPTNeoX:
    """Blocks whose only parts with an effect are head 1.2 and MLP 0: all others write zeros."""
    model = neox()
    for layer, block in enumerate(model.hf.gpt_neox.layers):
        for head in range(4):
            if (layer, head) != (1, 2):
                block.attention.dense.weight[:, 8 * head : 8 * head + 8] = 0
        if layer != 0:
            block.mlp.dense_4h_to_h.weight.zero_()
            block.mlp.dense_4h_to_h.bias.zero_()
    return model


TRUE_CIRCUIT = ["mlp_out.0", "head_out.1.2"]


@pytest.mark.parametrize("how", HOWS)
def test_a_planted_circuit_is_faithful_complete_and_minimal(how: str) -> None:
    scores = CircuitEvaluation(planted(), PAIRS, TRUE_CIRCUIT, Scoring(ablation=how, batch=4))
    faithfulness = scores.faithfulness()
    assert faithfulness.score == (1, 1, 1) and faithfulness.circuit == faithfulness.model
    assert faithfulness.nothing.value != faithfulness.model.value
    gaps = scores.completeness(8)
    assert {gap.removed for gap in gaps} >= {()} and all(
        gap.difference == (0, 0, 0) for gap in gaps
    )
    effects = scores.minimality(8)
    assert {str(effect.node) for effect in effects} == set(TRUE_CIRCUIT)
    assert all(abs(effect.difference.value) > 1e-5 for effect in effects)


def test_a_needless_node_is_found_and_a_missing_one_as_well() -> None:
    more = CircuitEvaluation(planted(), PAIRS, [*TRUE_CIRCUIT, "head_out.0.0"])
    assert more.faithfulness().score.value == 1
    last = more.minimality(4)[-1]
    assert str(last.node) == "head_out.0.0" and last.difference == (0, 0, 0)
    less = CircuitEvaluation(planted(), PAIRS, ["mlp_out.0"])
    assert less.faithfulness().score.value != 1
    assert less.completeness(0)[0].difference.value != 0


def test_scores_are_their_definitions() -> None:
    model, circuit = neox(), {Site.parse(s) for s in ("head_out.0.1", "mlp_out.1", "head_out.2.3")}
    everything = set(nodes(model))

    def m(kept: set[Site]) -> float:
        logits = ablated_logits(
            model, PAIRS.clean, sorted(everything - kept, key=str), "mean", PAIRS.corrupt
        )
        return measure(logits, PAIRS)["logit_difference"].double().mean().item()

    scores = CircuitEvaluation(model, PAIRS, circuit, Scoring(batch=3))
    found = scores.faithfulness()
    nothing, full = m(set()), m(everything)
    assert found.score.value == pytest.approx((m(circuit) - nothing) / (full - nothing), rel=1e-4)
    assert found.circuit.value == pytest.approx(m(circuit), abs=1e-5)
    assert found.nothing.value == pytest.approx(nothing, abs=1e-5)
    assert found.score.low < found.score.value < found.score.high
    gaps = scores.completeness(5)
    assert len(gaps) > 2
    assert [abs(gap.difference.value) for gap in gaps] == sorted(
        (abs(g.difference.value) for g in gaps), reverse=True
    )
    for gap in gaps:
        k = set(gap.removed)
        assert gap.difference.value == pytest.approx(m(circuit - k) - m(everything - k), abs=1e-5)
        difference = float(gap.circuit.value - gap.model.value)
        assert gap.difference.value == pytest.approx(difference, abs=1e-9)
    for name, change in scores.alone().items():
        whole = m(everything - {Site.parse(name)}) - full
        assert change.value == pytest.approx(whole, abs=1e-5)
    tried = [set(gap.removed) for gap in gaps]
    for effect in scores.minimality(5):
        v = {effect.node}
        sizes = [abs(m(circuit - k - v) - m(circuit - (k - v))) for k in tried]
        k = set(effect.removed)
        assert effect.node not in k
        assert effect.difference.value == pytest.approx(
            m(circuit - k - v) - m(circuit - k), abs=1e-5
        )
        assert abs(effect.difference.value) == pytest.approx(max(sizes), abs=1e-5)


def test_everything_is_faithful_and_nothing_is_not() -> None:
    for model in (neox(), mamba()):
        for metric in ("logit", "probability", "kl", "rank"):
            zero = Scoring(metric, "zero")
            whole = CircuitEvaluation(model, PAIRS, nodes(model), zero).faithfulness()
            assert whole.score.value == 1, metric
        nothing = CircuitEvaluation(model, PAIRS, [], Scoring(ablation="zero"))
        assert nothing.faithfulness().score.value == 0 and nothing.minimality() == []


def test_runs_are_shared_between_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, runs = neox(), []
    run = model.run
    monkeypatch.setattr(model, "run", lambda *a, **k: (runs.append(1), run(*a, **k))[1])
    scores = CircuitEvaluation(model, PAIRS, TRUE_CIRCUIT, Scoring(ablation="zero"))
    first = scores.faithfulness()
    before = len(runs)
    assert scores.faithfulness() == first and len(runs) == before


def test_nodes_at_positions() -> None:
    model = mamba()
    universe = [Site("mixer_out", layer, position=p) for layer in range(3) for p in range(12)]
    scores = CircuitEvaluation(
        model, PAIRS, ["mixer_out.1@11"], Scoring(ablation="zero"), universe=universe
    )
    ablate = [site for site in universe if site != Site("mixer_out", 1, position=11)]
    expected = measure(ablated_logits(model, PAIRS.clean, ablate), PAIRS)["logit_difference"]
    torch.testing.assert_close(
        scores.metric_with([scores.circuit])[0], expected.double(), atol=1e-5, rtol=1e-5
    )


def test_faithfulness_is_undefined_where_ablation_does_nothing() -> None:
    same = PromptPairs("same", PAIRS.clean, PAIRS.clean, PAIRS.answer, PAIRS.distractor)
    scoring = Scoring("logit", "resample")
    found = CircuitEvaluation(planted(), same, TRUE_CIRCUIT, scoring).faithfulness()
    assert all(math.isnan(x) for x in found.score)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (
            lambda: CircuitEvaluation(neox(), PAIRS, ["head_out.1.4"]),
            ["head_out.1.4", "none of the 15", "head_out.1."],
        ),
        (lambda: CircuitEvaluation(neox(), PAIRS, ["mlp_ou.1"]), ["mlp_ou.1", "mlp_out"]),
        (
            lambda: CircuitEvaluation(neox(), PAIRS, [], Scoring("logit_diff")),
            ["logit_diff", "Did you mean 'logit_diff"],
        ),
        (
            lambda: CircuitEvaluation(neox(), PAIRS, [], Scoring(ablation="means")),
            ["means", "Did you mean 'mean'"],
        ),
        (
            lambda: CircuitEvaluation(
                neox(), PAIRS, [], Scoring("probability_difference")
            ).faithfulness(),
            [
                "metric for induction",
                "probability_difference",
                "Known: logit, probability, logit_difference, kl, rank",
            ],
        ),
        (lambda: ablated_logits(neox(), PAIRS.clean, ["mlp_out.0@12"]), ["12", "12 positions"]),
        (
            lambda: ablated_logits(mamba(), PAIRS.clean, ["mlp_out.0"]),
            ["mlp_out.0", "no such site"],
        ),
    ],
)
def test_errors_say_what_to_do(call: Callable, parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        call()
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("make", [neox, mamba])
def test_what_is_read_in_one_go_is_all_that_the_scores_ask_for(make, monkeypatch):
    """And the scores are those of passes of their own."""
    model = make()
    circuit = nodes(model)[1:3]
    alone, together = (CircuitEvaluation(model, PAIRS, circuit) for _ in range(2))
    together.read(4)

    def no_pass(*_):
        raise AssertionError("another pass")

    scores = alone.faithfulness(), alone.completeness(4), alone.minimality(4), alone.alone()
    monkeypatch.setattr(CircuitEvaluation, "_chunk", no_pass)
    again = (
        together.faithfulness(),
        together.completeness(4),
        together.minimality(4),
        together.alone(),
    )
    assert again[0].score.value == scores[0].score.value
    assert [gap.removed for gap in again[1]] == [gap.removed for gap in scores[1]]
    for own, other in zip(again[2], scores[2], strict=True):
        assert own.node == other.node and own.removed == other.removed
        assert own.difference.value == other.difference.value
    for name, change in scores[3].items():
        assert again[3][name].value == change.value
