"""Prompts of models whose windows begin with a token hold it, and no analysis reads it twice."""

from __future__ import annotations

import pytest
import torch
from tests.reference.planted_mamba import summing_mamba
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import homolog
from homolog.circuits.discovery import discover
from homolog.circuits.edge_patching import edge_effects
from homolog.circuits.evaluation import CircuitEvaluation
from homolog.circuits.known import require_paths
from homolog.circuits.off_by_one import off_by_one, unrelated
from homolog.circuits.paths import Paths
from homolog.circuits.prompts import METRIC, Prompts, answers
from homolog.corpus.tasks import make_task
from homolog.models import LanguageModel
from homolog.models.mamba import Mamba

PROMPTS = Prompts(n_prompts=8, length=12, repeat=3, seed=3, batch=4)


@pytest.fixture(scope="module", params=["zoo:transformer-s0", "zoo:mamba-s0"])
def begun(request: pytest.FixtureRequest) -> LanguageModel:
    return homolog.load(request.param).begun("true")


def test_prompts_are_the_same_after_the_token(begun: LanguageModel) -> None:
    plain, pairs = PROMPTS.pairs(begun.plain, "replace_B"), PROMPTS.pairs(begun, "replace_B")
    for own, with_it in ((plain.clean, pairs.clean), (plain.corrupt, pairs.corrupt)):
        assert with_it[:, 0].tolist() == [begun.bos] * 8 and torch.equal(with_it[:, 1:], own)
    assert torch.equal(pairs.answer, plain.answer) and pairs.n_begun == 1 and plain.n_begun == 0
    assert all(torch.equal(pairs.positions[n], plain.positions[n] + 1) for n in plain.positions)
    task = make_task("induction", begun, 4, length=12)
    assert task.clean[:, 0].tolist() == [begun.bos] * 4 and task.length == 13
    own = make_task("induction", begun.plain, 4, length=12)
    assert torch.equal(task[:2].begun(None).clean[:, 1:], own.clean[:2])


def test_every_analysis_reads_the_prompts_as_they_are(begun: LanguageModel) -> None:
    pairs, plain = PROMPTS.pairs(begun, "replace_B"), begun.plain
    logits = plain.run(pairs.clean).logits
    assert logits is not None
    each = torch.arange(8)
    difference = logits[each, -1, pairs.answer] - logits[each, -1, pairs.distractor]
    torch.testing.assert_close(answers(begun, pairs, 4)[METRIC], difference, rtol=1e-4, atol=1e-4)
    clean = Paths(require_paths(begun), pairs.clean, pairs.corrupt).logits
    torch.testing.assert_close(clean, logits[:, -1], rtol=1e-4, atol=1e-4)
    edges = discover(begun, pairs, n_top=3, n_random=2, batch=4).edges
    assert edges.equals(discover(plain, pairs, n_top=3, n_random=2, batch=4).edges)
    ways = [edge_effects(model, pairs, edges.head(6)) for model in (begun, plain)]
    assert torch.equal(*ways)
    whole = CircuitEvaluation(begun, pairs, [])
    torch.testing.assert_close(whole.metric_with([whole.universe])[0], difference.double())


def test_the_null_of_off_by_one_leaves_the_token_alone(begun: LanguageModel) -> None:
    pairs = PROMPTS.pairs(begun, "replace_B")
    for seed in range(20):
        drawn = unrelated(begun, pairs, Prompts(8, 12, 3, seed))
        assert bool((drawn.positions["B"] > 0).all())


@pytest.mark.parametrize(("shift", "verdict"), [(0, "no shift"), (1, "off by one")])
def test_a_planted_shift_is_found_after_a_token(shift: int, verdict: str) -> None:
    words = {f"w{i}": i for i in range(39)} | {"<bos>": 39}
    words = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>")
    model = Mamba("planted", summing_mamba(40, shift), tokenizer).begun("true")
    found = off_by_one(model, Prompts(n_prompts=24, length=12, seed=3), "state.0")
    assert (found.verdict, found.offset, found.certainty) == (verdict, shift, 1.0)
