"""What a zoo model's scores are made of."""

import numpy as np
import pytest
import torch

import homolog
from homolog.corpus.tasks import make_task
from homolog.zoo_training.evaluate import examined, token_losses


def test_losses_are_those_of_the_targets():
    model = homolog.load("zoo:transformer-random")
    tokens = np.array([[5, 6, 7]])
    log_p = torch.log_softmax(model.run(torch.from_numpy(tokens)).logits, -1)
    expected = [-float(log_p[0, 0, 6]), -float(log_p[0, 1, 7])]
    assert token_losses(model, tokens)[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_tasks_are_solved_as_plain_logits_say():
    model = homolog.load("zoo:transformer-s0")
    rows = {row["task"]: row for row in examined(model)}
    pairs = make_task("induction", model, 256)
    plain = model.hf(pairs.clean).logits[:, -1]
    on_top = (plain.argmax(-1) == pairs.answer).float().mean()
    right, wrong = (plain.gather(1, ids[:, None]) for ids in (pairs.answer, pairs.distractor))
    assert rows["induction"]["on_top"] == pytest.approx(float(on_top))
    assert rows["induction"]["solved"] == pytest.approx(float((right > wrong).float().mean()))
    assert rows["natural_induction"]["solved"] > 0.9  # what the model was made for
    # its tokenizer splits nouns and years
    assert "one token" in rows["agreement"]["why"] and "solved" not in rows["greater_than"]
