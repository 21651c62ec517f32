"""What a zoo model's scores are made of."""

import numpy as np
import pytest
import torch

import homolog
from homolog.zoo_training.evaluate import token_losses


def test_losses_are_those_of_the_targets():
    model = homolog.load("zoo:transformer-random")
    tokens = np.array([[5, 6, 7]])
    log_p = torch.log_softmax(model.run(torch.from_numpy(tokens)).logits, -1)
    expected = [-float(log_p[0, 0, 6]), -float(log_p[0, 1, 7])]
    assert token_losses(model, tokens)[0].tolist() == pytest.approx(expected, abs=1e-5)
