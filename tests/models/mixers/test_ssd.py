"""The SSD of Mamba-2 and of the hybrids that have it."""

import pytest
import torch
from tests.models.mixers import linear_laws
from tests.models.mixers.linear_laws import CLOSE, LENGTHS, Pass

from homolog.models import Replace
from homolog.models.mixers.ssd import SSD
from homolog.models.sites import KINDS

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = ("mamba2", "mamba2-bias", "falcon_h1", "falcon_h1-norm", "granite_hybrid", "nemotron_h")


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_entering_reading_and_leaving_reproduce_the_pass(case, length):
    linear_laws.require_the_pass(case, SSD, length)


@pytest.mark.parametrize("case", CASES)
def test_one_position_enters_as_in_the_window(case):
    linear_laws.require_single_positions(case, SSD)


@pytest.mark.parametrize("case", CASES)
def test_steps_one_after_the_other_are_the_states(case):
    linear_laws.require_steps(case, SSD)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", CASES[:3])
def test_a_position_written_anew_is_carried_as_a_run_with_its_values_put_in(case, length):
    linear_laws.require_carry(case, SSD, ("ssm_input", "head_dt", "B"), length)


@pytest.mark.parametrize("case", CASES[:3])
def test_a_changed_state_is_carried_as_an_edit_leaves_it(case):
    linear_laws.require_carried_change(case, SSD)


@pytest.mark.parametrize(
    ("case", "d_inner", "heads", "groups"),
    [("mamba2", 64, 8, 2), ("mamba2-bias", 64, 8, 1), ("falcon_h1", 48, 6, 1), ("bamba", 64, 8, 2)],
)
def test_axes_are_those_of_the_legend(case, d_inner, heads, groups):
    """Eight state dimensions in each group; what is convolved holds x, B and C."""
    run = Pass(case, SSD)
    d_state, kernel = 8, run.mixer.convolution.width
    sizes = {"batch": 3, "position": 11, "d_model": 32, "head": heads, "tap": kernel}
    sizes |= {"d_inner": d_inner, "d_state": d_state}
    groups_of = {"B": groups, "C": groups}
    for kind, value in run.at.items():
        expected = [sizes[axis] for axis in KINDS[kind]]
        if kind in ("conv_in", "conv_taps", "conv_out"):
            expected[-1] = d_inner + 2 * groups * d_state
        expected[-1] *= groups_of.get(kind, 1)
        assert list(value.shape) == expected, kind


def test_a_convolution_alone_gives_what_it_writes():
    run = Pass("mamba2", SSD)
    written = run.mixer.written(run.at["conv_out"])
    assert set(written) == {"ssm_input", "B", "C"}
    for kind, value in written.items():
        torch.testing.assert_close(value, run.at[kind], **CLOSE)


@pytest.mark.parametrize("t", [0, 3, 10])
def test_an_edited_recurrence_decays_head_by_head(t):
    """A state put in at one position decays by its head's decay and gains the later writes."""
    run = Pass("mamba2", SSD)
    name, write = f"state.{run.mixer.layer}", f"write.{run.mixer.layer}@2"
    value = torch.rand(run.at["state"][:, t].shape).double()
    edits, capture = [Replace(f"{name}@{t}", value)], [name, f"{name}@1", write]
    edited = run.model.run(run.tokens, edits=edits, capture=capture)
    torch.testing.assert_close(edited[name][:, :t], run.at["state"][:, :t], **CLOSE)
    width = value.shape[1] // run.mixer.heads
    for later in range(t, 11):
        if later > t:
            decay = run.at["decay"][:, later].repeat_interleave(width, 1)[..., None]
            value = decay * value + run.at["write"][:, later]
        torch.testing.assert_close(edited[name][:, later], value, **CLOSE)
    torch.testing.assert_close(edited[f"{name}@1"], edited[name][:, 1], **CLOSE)
    assert torch.equal(edited[write], run.at["write"][:, 2])


def test_a_decay_may_be_edited_below_zero():
    """Its logarithm is never taken: the plain recurrence goes on with the value put in."""
    run = Pass("mamba2", SSD, 4)
    layer = run.mixer.layer
    value = torch.full_like(run.at["decay"][:, 2], -0.5)
    edits = [Replace(f"decay.{layer}@2", value)]
    edited = run.model.run(run.tokens, edits=edits, capture=[f"state.{layer}"])
    expected = -0.5 * run.at["state"][:, 1] + run.at["write"][:, 2]
    torch.testing.assert_close(edited[f"state.{layer}"][:, 2], expected, **CLOSE)
