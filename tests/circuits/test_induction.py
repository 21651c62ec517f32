"""The induction study on the models that ship, against what other means say of the same parts."""

import pytest
import torch

import homolog
from homolog.circuits.effects import Effects, PathQuestion, measure_effects
from homolog.circuits.induction import trace_induction
from homolog.circuits.prompts import Prompts, Unable, around
from homolog.circuits.replay import Patched
from homolog.corpus.tasks import induction
from homolog.record.circuits import CARRIER, COPIER, MATCHER

PROMPTS = Prompts(n_prompts=32, length=16, repeat=4, batch=16)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def circuits():
    return {
        name: trace_induction(homolog.load(name), PROMPTS)
        for name in ("zoo:transformer-s0", "zoo:mamba-s0")
    }


def attention(name, pairs):
    """The Hugging Face module's own attention: (layer, head, prompt, query, key)."""
    hf = homolog.load(name).hf
    hf.set_attn_implementation("eager")
    return torch.stack(hf(pairs.clean, output_attentions=True).attentions).transpose(1, 2)


def test_the_transformers_heads_attend_as_their_roles_say(circuits):
    circuit = circuits["zoo:transformer-s0"]
    pairs = PROMPTS.pairs(homolog.load("zoo:transformer-s0"), "replace_B")
    patterns = attention("zoo:transformer-s0", pairs)
    each, b = torch.arange(len(pairs)), pairs.positions["B"]
    from_end = patterns[:, :, each, -1, b].mean(-1)  # (layer, head): attention from the end to B
    layer, head = divmod(int(from_end.argmax()), from_end.shape[1])
    assert circuit.key == f"z.{layer}.{head}"
    before = patterns[:, :, each, b, b - 1].mean(-1)  # attention from B to the token before it
    carriers = {r.component for r in circuit.roles if r.role == CARRIER}
    strongest = before.flatten().topk(len(carriers)).indices.tolist()
    assert carriers == {f"z.{i // before.shape[1]}.{i % before.shape[1]}" for i in strongest}


def test_the_mambas_parts_matter_when_they_are_cut_out_of_the_module(circuits):
    circuit = circuits["zoo:mamba-s0"]
    carrier = next(r.component for r in circuit.roles if r.role == CARRIER)
    # the tap that reads the token before B
    assert carrier == f"conv_taps.{circuit.key.split('.')[1]}@A"
    model = homolog.load("zoo:mamba-s0")
    pairs = PROMPTS.pairs(model, "replace_B")
    lost = []
    for block in model.hf.backbone.layers:
        weight = block.mixer.conv1d.weight
        kept = weight.data.clone()
        weight.data[:, 0, -2] = 0.0  # the tap one position back
        logits = model.hf(pairs.clean).logits[:, -1]
        weight.data = kept
        lost.append(float(logits[torch.arange(len(pairs)), pairs.answer].mean()))
    assert f"state.{lost.index(min(lost))}" == circuit.key


@pytest.mark.parametrize("name", ["zoo:transformer-s0", "zoo:mamba-s0"])
def test_roles_shares_and_faithfulness(circuits, name):
    circuit = circuits[name]
    assert {role.role for role in circuit.roles} == {CARRIER, MATCHER, COPIER}
    for role in circuit.roles:
        assert float(role.change.low) <= float(role.change.value) <= float(role.change.high) < 0
        assert 0 < role.share < 1.2
    copiers = [r for r in circuit.roles if r.role == COPIER]
    assert copiers[0].component == circuit.key
    assert circuit.faithfulness.score.value > 0.9
    assert circuit.ability.able and circuit.ability.preferred > 0.9
    rows = [row for effects in circuit.effects for row in effects.rows()]
    assert {"logit", "probability", "logit_difference", "kl", "rank"} <= {
        row["metric"] for row in rows
    }
    for row in rows:
        assert row["change"] == pytest.approx(row["patched"] - row["clean"], abs=1e-4)


def test_a_model_that_cannot_do_the_task_has_no_circuit():
    with pytest.raises(
        Unable, match=r"transformer-random.*needs a model that does the task.*accuracy"
    ) as error:
        trace_induction(homolog.load("zoo:transformer-random"), PROMPTS)
    assert error.value.ability.accuracy < 0.1 and not error.value.ability.able


class Table:
    """Logits from a table, in the place of a model: each prompt's row by its tokens."""

    pairs = induction(range(50), 6, length=8)
    logits_of = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    made = 0

    def __init__(self, clean, _corrupt):
        Table.made += 1
        self.logits = self.logits_of[
            [int((self.pairs.clean == row).all(1).nonzero()[0]) for row in clean]
        ]

    def against(self, _corrupt):
        return self


def test_effects_of_batches_are_those_of_all_prompts():
    def ask(paths, part):
        assert len(part) == len(paths.logits)
        return [Patched(("a",), paths.logits[None] + 1), Patched(("b",), paths.logits[None] * 2)]

    questions = [
        PathQuestion("x", corruption, ask, about={"position": ["p", "q"]})
        for corruption in ("y", "z")
    ]
    Table.made = 0
    (one, _), (three, _) = (
        measure_effects(questions, lambda _: Table.pairs, Table, batch) for batch in (6, 2)
    )
    assert Table.made == 1 + 3  # one clean pass a batch serves both questions
    assert one.senders == three.senders == ("a", "b")
    for metric, values in one.patched.items():
        assert torch.equal(values, three.patched[metric]), metric
    # every logit is one higher, which no probability sees
    assert one.change("logit")[0].tolist() == pytest.approx([1.0] * 6, abs=1e-6)
    assert one.change("probability")[0].abs().max() < 1e-6
    rows = one.rows()
    assert [r["position"] for r in rows if r["metric"] == "kl"] == ["p", "q"]


def test_strongest_lowers_most():
    clean, patched = (
        {"m": torch.zeros(2)},
        {"m": torch.tensor([[1.0, 1.0], [-3.0, 1.0], [-0.5, -0.4]])},
    )
    question = PathQuestion("x", "y", lambda *_: [])
    # means 1, -1, -0.45
    assert Effects(question, ("a", "b", "c"), clean, patched).strongest("m") == "b"


def test_positions_around_stop_at_the_windows_ends():
    pairs = induction(range(50), 4, length=8, first_index=0)
    at = around(pairs, "A", (-1, 0, 9))
    assert {name: p.tolist() for name, p in at.items()} == {
        "A-1": [0] * 4,
        "A": [0] * 4,
        "A+9": [7] * 4,
    }
