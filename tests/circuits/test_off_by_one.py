"""The Off-by-One test on planted truths, and its predictions against visible arithmetic."""

import pytest
import torch
from tests.reference import planted_recurrences as planted
from tests.reference.planted_mamba import summing_mamba

import homolog
from homolog.circuits.off_by_one import OFFSETS, off_by_one, unrelated
from homolog.circuits.prompts import Prompts, ability
from homolog.errors import InputError
from homolog.models.architectures import ADAPTERS
from homolog.models.mamba import Mamba

PROMPTS = Prompts(n_prompts=24, length=12, seed=3)
VERDICTS = ("no shift", "off by one", "shift of 2", "shift of 3")
SHIFTED = [
    *((plant, shift) for plant in ("ssd", "delta_rule", "rg_lru") for shift in range(4)),
    *(("ssd_beside_attention", shift) for shift in range(4)),
    *(("rwkv", shift) for shift in range(2)),
]


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


def off_by(hf, prompts, key):
    """The test, when it finds effects at one offset alone."""
    model = ADAPTERS[hf.config.model_type]("planted", hf)
    found = off_by_one(model, prompts, key)
    drops = sum(profile.effect.value for profile in found.profiles)
    elsewhere = [float(e) for o, e in zip(OFFSETS, drops, strict=True) if o != found.offset]
    assert max(map(abs, elsewhere)) < 1e-5 < 1e-3 < float(drops[OFFSETS.index(found.offset)])
    assert found.certainty == 1.0
    return found


@pytest.mark.parametrize(("plant", "shift"), SHIFTED)
def test_a_planted_shift_of_every_local_part_is_found_and_predicted(plant, shift):
    found = off_by(getattr(planted, plant)(shift), PROMPTS, "state.0")
    assert (found.verdict, found.offset) == (VERDICTS[shift], shift)
    assert found.predicted == shift
    assert found.profiles[0].predicted[OFFSETS.index(shift)] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("shift", range(3))
def test_what_is_matched_is_found_beside_what_is_copied(shift):
    """A stands before B, so that both are written at one position at offsets one apart."""
    model = ADAPTERS["mamba2"]("planted", planted.induction(shift))
    assert ability(model, PROMPTS).preferred == 1.0
    for token, offset in (("B", shift), ("A", shift + 1)):
        found = off_by_one(model, PROMPTS, "state.0", token)
        assert (found.token, found.verdict) == (token, VERDICTS[shift])
        assert (found.offset, found.predicted, found.certainty) == (offset, offset, 1.0)
        drops = dict(zip(OFFSETS, found.profiles[0].effect.value.tolist(), strict=True))
        assert drops.pop(offset) > 1e-3 and max(map(abs, drops.values())) < 1e-5
        assert found.profiles[0].predicted[OFFSETS.index(offset)] > 0.8


def test_a_token_that_is_neither_is_refused():
    model = Mamba("planted", summing_mamba(40, 1))
    with pytest.raises(InputError, match=r"token is 'C'.*Known: B, A"):
        off_by_one(model, PROMPTS, "state.0", "C")


def test_a_register_takes_tokens_in_where_they_stand():
    """B is within its four positions of the end."""
    found = off_by(planted.register(), Prompts(24, 5, seed=3), "state.0")
    assert (found.verdict, found.predicted) == ("no shift", 0)


@pytest.mark.parametrize("shift", range(4))
def test_a_head_reads_what_a_register_below_it_shifted(shift):
    """The head's own mixer shifts nothing, so that it predicts nothing."""
    found = off_by(planted.attention_over_register(shift), PROMPTS, "z.1")
    assert (found.verdict, found.offset) == (VERDICTS[shift], shift)
    assert [profile.place for profile in found.profiles] == ["z.1", "write.0"]
    assert found.predicted is None


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
