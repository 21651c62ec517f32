"""What the answer loses with an edge to the last position, on planted models and against runs."""

import pytest
import torch
from tests.models.helpers import tiny
from tests.reference import planted_recurrences as planted

from homolog.circuits import Paths, Prompts, knockouts_to_logits, measure
from homolog.circuits.effects import PathQuestion, measure_effects
from homolog.circuits.prompts import around
from homolog.corpus.tasks import make_task
from homolog.errors import InputError
from homolog.models import Knockout
from homolog.models.architectures import ADAPTERS

PROMPTS = Prompts(n_prompts=24, length=12, seed=3)
OFFSETS = (-1, 0, 1, 2, 3)


@pytest.mark.parametrize("shift", range(3))
@pytest.mark.parametrize(
    ("plant", "part"), [("ssd", "y.0"), ("rg_lru", "y.0"), ("attention_over_register", "z.1")]
)
def test_the_answer_hangs_on_the_position_that_the_shift_brings_it_to(plant, part, shift):
    hf = getattr(planted, plant)(shift)
    model = ADAPTERS[hf.config.model_type]("planted", hf)
    asked = PathQuestion(
        "knockout",
        "replace_B",
        lambda paths, pairs: knockouts_to_logits(paths, [part], around(pairs, "B", OFFSETS)),
    )
    pairs = PROMPTS.pairs(model, "replace_B")
    inside = pairs.positions["B"] + max(OFFSETS) < pairs.length  # else two labels are one position
    (effects,) = measure_effects([asked], lambda _: pairs, lambda *both: Paths(model, *both), 8)
    lost = -effects.change()[:, inside]
    assert effects.senders == ("B-1", "B", "B+1", "B+2", "B+3")
    assert lost.mean(1).argmax() == OFFSETS.index(shift)
    others = [row for row, offset in enumerate(OFFSETS) if offset != shift]
    assert lost[others].abs().max() < 0.3 * lost[OFFSETS.index(shift)].min()


@pytest.mark.parametrize(("case", "parts"), [("llama", ["z.1.2", "z.2"]), ("mamba", ["y.1"])])
def test_all_that_follows_is_computed_again(case, parts):
    model = tiny(case, torch.float64)
    pairs = make_task("induction", model, 6, length=9)
    paths = Paths(model, pairs.clean, pairs.corrupt)
    b = pairs.positions["B"]
    several = torch.stack([b, b - 1], 1)
    patched = list(knockouts_to_logits(paths, parts, {"B": b, "A B": several}))
    assert [one.senders for one in patched] == [("B",), ("A B",)]
    for one, key in zip(patched, (b, several), strict=True):
        edits = [Knockout(part, -1, key=key) for part in parts]
        run = model.run(pairs.clean, edits=edits, last_only=True)
        torch.testing.assert_close(one.logits[0], run.logits[:, 0], rtol=0, atol=1e-10)
        effect = measure(one.logits, pairs, paths.logits)["logit_difference"]
        assert effect.shape == (1, 6)


def test_no_parts_are_refused():
    model = tiny("mamba")
    pairs = make_task("induction", model, 2, length=9)
    with pytest.raises(InputError, match="there must be one"):
        next(knockouts_to_logits(Paths(model, pairs.clean, pairs.corrupt), [], {}))
