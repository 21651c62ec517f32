"""The selective scan of Mamba-1, and with norms inside as Falcon-Mamba and Jamba have it."""

import pytest
from tests.models.mixers import linear_laws
from tests.models.mixers.linear_laws import LENGTHS

from homolog.models.mixers.selective_scan import SelectiveScan

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = ("mamba", "mamba-bias", "falcon_mamba", "jamba")


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_entering_reading_and_leaving_reproduce_the_pass(case, length):
    linear_laws.require_the_pass(case, SelectiveScan, length)


@pytest.mark.parametrize("case", CASES)
def test_one_position_enters_as_in_the_window(case):
    linear_laws.require_single_positions(case, SelectiveScan)


@pytest.mark.parametrize("case", CASES)
def test_steps_one_after_the_other_are_the_states(case):
    linear_laws.require_steps(case, SelectiveScan)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_a_position_written_anew_is_carried_as_a_run_with_its_values_put_in(case, length):
    linear_laws.require_carry(case, SelectiveScan, ("ssm_input", "dt", "B"), length)


@pytest.mark.parametrize("case", CASES)
def test_a_changed_state_is_carried_as_an_edit_leaves_it(case):
    linear_laws.require_carried_change(case, SelectiveScan)
