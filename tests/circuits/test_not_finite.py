"""A number that is not finite never becomes a circuit's result: one error, naming where."""

import pytest
import torch
from tests.circuits.ablated import ablated_logits
from tests.models.helpers import ONE_EACH, adapter, tiny
from tests.reference.tiny_models import tiny_gpt2

import homolog
from homolog.circuits.discovery import discover, score_edges
from homolog.circuits.edges import nodes
from homolog.circuits.evaluation import CircuitEvaluation, Scoring
from homolog.circuits.induction import trace_induction
from homolog.circuits.prompts import Prompts, ability
from homolog.corpus.tasks import induction
from homolog.errors import InputError

PROMPTS = Prompts(n_prompts=4, length=12, seed=1, batch=4)


def broken(case):
    """One entry of the unembedding is far too large: logits are infinite, the streams are not."""
    model = tiny(case)
    with torch.no_grad():
        model.hf.get_output_embeddings().weight[40] = 3e38
    return model


@pytest.mark.parametrize("case", ONE_EACH)
def test_infinite_logits_of_the_clean_pass(case):
    model = broken(case)
    pairs = induction(model, 4, seed=1, length=12)
    calls = [
        lambda: ability(model, PROMPTS),
        lambda: trace_induction(model, PROMPTS),
        lambda: discover(model, pairs, n_top=1, n_random=1),
        lambda: CircuitEvaluation(model, pairs, nodes(model)[:1]).faithfulness(),
    ]
    for call in calls:
        with pytest.raises(InputError) as error:
            call()
        for word in (model.name, "the logits, at position", "(token ", "that of token 40 is"):
            assert word in str(error.value), str(error.value)


def test_infinite_logits_of_a_patched_pass():
    """In float16 a channel is 6e4, 0 and 6e4 after the blocks; without block 1's part, 12e4."""
    model = tiny("gpt2", torch.float16)
    with torch.no_grad():
        for block, sign in zip(model.hf.transformer.h, (1, -1, 1), strict=True):
            block.mlp.c_proj.bias[0] = sign * 6e4
    pairs = induction(model, 4, seed=1, length=12)
    circuit = [node for node in nodes(model) if str(node) != "mlp_out.1"]
    assert ablated_logits(model, pairs.clean, []).isfinite().all()
    with pytest.raises(
        InputError, match=r"logits is 'not finite'.*those of prompt 0 are not at token.*float32"
    ):
        CircuitEvaluation(model, pairs, circuit, Scoring(ablation="zero")).faithfulness()


def test_gradients_that_overflow_are_no_scores():
    """The norm's weight, 300, over the least spread of its input, 0.003, is beyond float16."""
    model = adapter(tiny_gpt2(tie_word_embeddings=False), "steep", torch.float16)
    with torch.no_grad():
        for block in model.hf.transformer.h:
            for part in (block.attn.c_proj, block.mlp.c_proj):
                part.weight.zero_(), part.bias.zero_()
        model.hf.transformer.wte.weight.mul_(1e-3)
        model.hf.transformer.wpe.weight.mul_(1e-3)
        model.hf.transformer.ln_f.weight.fill_(300.0)
        model.hf.lm_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    pairs = induction(model, 4, seed=1, length=12)
    assert ablated_logits(model, pairs.clean, []).isfinite().all()
    with pytest.raises(
        InputError,
        match=r"model is 'steep', but scores need finite gradients, and those at .* are not",
    ):
        score_edges(model, pairs, steps=1)


def test_the_trained_zoo_is_finite_in_every_precision():
    for name in ("zoo:mamba-s0", "zoo:transformer-s0"):
        for dtype in (torch.bfloat16, torch.float16):
            assert 0 <= ability(homolog.load(name, dtype=dtype), PROMPTS).accuracy <= 1
