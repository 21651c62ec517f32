"""The Off-by-One test on planted truths, and its predictions against visible arithmetic."""

import pytest
import torch
from tests.reference.planted_mamba import summing_mamba

import homolog
from homolog.circuits.off_by_one import OFFSETS, off_by_one, unrelated
from homolog.circuits.prompts import Prompts
from homolog.models.mamba import Mamba

PROMPTS = Prompts(n_prompts=24, length=12, seed=3)


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0, "no shift"), (1, "off by one"), (2, "shift of 2"), (3, "shift of 3")]
)
def test_a_planted_shift_is_found_and_predicted(shift, verdict):
    model = Mamba("planted", summing_mamba(40, shift))
    found = off_by_one(model, PROMPTS, "state.0")
    assert (found.verdict, found.offset, found.certainty) == (verdict, shift, 1.0)
    assert found.predicted == shift
    profile = found.profiles[0]
    elsewhere = [float(e) for o, e in zip(OFFSETS, profile.effect.value, strict=True) if o != shift]
    assert max(map(abs, elsewhere)) < 1e-6 < float(profile.effect.value[OFFSETS.index(shift)])
    assert found.centre.value == pytest.approx(shift, abs=1e-5)
    # The only tap carries all of the tokens' channels; the channel that is always on does not vary.
    assert profile.predicted[OFFSETS.index(shift)] == pytest.approx(1.0, abs=1e-6)
    assert sum(row["share"] for row in profile.rows()) == pytest.approx(1.0)


def test_without_an_effect_it_is_undecided():
    hf = summing_mamba(40, 1)
    hf.backbone.layers[0].mixer.out_proj.weight.zero_()
    found = off_by_one(Mamba("mute", hf), PROMPTS, "state.0")
    assert found.verdict == "undecided"
    assert found.centre.value.isnan()


def test_the_unrelated_token_is_neither_a_nor_b_nor_repeated():
    model = Mamba("planted", summing_mamba(40, 1))
    pairs = PROMPTS.pairs(model, "replace_B")
    other = unrelated(model, pairs, PROMPTS)
    changed = (other.corrupt != other.clean).nonzero()
    assert changed[:, 0].tolist() == list(range(len(pairs)))  # one token in each prompt
    assert torch.equal(changed[:, 1], other.positions["B"])
    assert (other.positions["B"] != pairs.positions["A"]).all()
    assert (other.positions["B"] != pairs.positions["B"]).all()
    assert (other.positions["B"] < pairs.length - 1).all()
    new = other.corrupt[changed[:, 0], changed[:, 1]]
    assert not (new[:, None] == torch.cat([pairs.clean, pairs.corrupt], 1)).any()


def test_a_transformer_carries_the_token_at_its_own_position():
    model = homolog.load("zoo:transformer-s0")
    found = off_by_one(model, Prompts(n_prompts=24, length=16, repeat=4), "z.2.3")
    assert (found.verdict, found.offset, found.predicted) == ("no shift", 0, None)
    assert found.profiles[0].predicted.isnan().all()
