"""Metrics by arithmetic, and intervals against a slow bootstrap and a planted truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from homolog.circuits import metrics
from homolog.circuits.metrics import accuracy, interval, measure, percentiles, resampled_means
from homolog.corpus.tasks import PromptPairs
from homolog.errors import InputError

LN = math.log


def pairs_of(
    answer: list[int], distractor: list[int] | None = None, **more: torch.Tensor
) -> PromptPairs:
    tokens = torch.zeros(len(answer), 3, dtype=torch.int64)
    wrong = None if distractor is None else torch.tensor(distractor)
    return PromptPairs("test", tokens, tokens, torch.tensor(answer), wrong, **more)


def test_each_metric_by_hand() -> None:
    # probabilities 1/8, 1/8, 1/4, 1/2 clean; all 1/4 patched
    clean = torch.tensor([[1.0, 1.0, 2.0, 4.0]]).log()
    patched = torch.tensor([[[1.0, 1.0, 2.0, 4.0]], [[3.0, 3.0, 3.0, 3.0]]]).log()
    found = measure(patched, pairs_of([2], [0]), clean)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(found, (2, 1))
    expected = {
        "logit": [LN(2), LN(3)],
        "probability": [1 / 4, 1 / 4],
        "logit_difference": [LN(2), 0],
        "kl": [0, (LN(1 / 8) * 2 / 8 + LN(1 / 4) / 4 + LN(1 / 2) / 2) - LN(1 / 4)],
        "rank": [1, 0],
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(
            found[name][:, 0],
            torch.tensor(list(map(float, values))),
            atol=1e-6,
            rtol=1e-6,
            msg=name,
        )
    assert found["kl"][0, 0] == 0


def test_a_shift_of_all_logits_moves_the_logit_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 11, generator=generator, dtype=torch.float64)
    pairs = pairs_of([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    before, after = measure(logits, pairs, logits), measure(logits + 7, pairs, logits)
    torch.testing.assert_close(after["logit"], before["logit"] + 7)
    for name in set(before) - {"logit"}:
        torch.testing.assert_close(after[name], before[name], atol=1e-12, rtol=0)


def test_several_right_answers() -> None:
    choices, right = (
        torch.tensor([1, 3, 2]),
        torch.tensor([[True, False, False], [True, True, False]]),
    )
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log().expand(2, 4)  # probabilities in tenths
    found = measure(logits, pairs_of([1, 1], choices=choices, right=right))
    torch.testing.assert_close(
        found["probability_difference"], torch.tensor([0.2 - 0.4 - 0.3, 0.2 + 0.4 - 0.3])
    )
    assert "logit_difference" not in found and "kl" not in found
    assert accuracy(found).item() == 0.5  # of the second prompt alone


def test_accuracy_is_the_share_of_prompts_whose_answer_is_most_likely() -> None:
    logits = torch.tensor([[[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    assert accuracy(measure(logits, pairs_of([1, 1]))).tolist() == [1.0, 0.5]


def test_float32_is_good_to_some_millionths_at_large_logits() -> None:
    generator = torch.Generator().manual_seed(1)
    clean, patched = 60 + 6 * torch.randn(2, 4, 50000, generator=generator)
    answer, distractor = clean.argmax(-1).tolist(), [7, 8, 9, 10]
    small = measure(patched, pairs_of(answer, distractor), clean)
    large = measure(patched.double(), pairs_of(answer, distractor), clean.double())
    for name, value in small.items():
        torch.testing.assert_close(value.double(), large[name], atol=2e-6, rtol=5e-6, msg=name)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(2, 3, 4, 9, generator=torch.Generator().manual_seed(2))
    pairs, clean = pairs_of([0, 1, 2, 3], [4, 5, 6, 7]), logits[0, 0]
    whole = measure(logits, pairs, clean)
    monkeypatch.setattr(metrics, "_AT_ONCE", 40)
    for name, value in measure(logits, pairs, clean).items():
        assert value.shape == (2, 3, 4) and torch.equal(value, whole[name])
    one = measure(logits[:, :, 1:3], pairs[1:3], clean[1:3])
    torch.testing.assert_close(one["kl"], whole["kl"][:, :, 1:3])
    assert measure(logits[:0], pairs, clean)["kl"].shape == (0, 3, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_no_result(bad: float) -> None:
    logits = torch.zeros(3, 2, 4)
    logits[1, 1, 2] = bad
    for given in ((logits, pairs_of([0, 0])), (logits[0], pairs_of([0, 0]), logits[1])):
        with pytest.raises(InputError, match=r"finite.*prompt 1 are not at token 2"):
            measure(*given)
    assert measure(torch.zeros(1, 2), pairs_of([0]), torch.zeros(1, 2))["rank"].item() == 0


def test_a_token_that_cannot_be_adds_nothing_to_the_divergence() -> None:
    """Its clean probability is 0 in float32: softmax of (0, -200)."""
    found = measure(torch.tensor([[0.0, 100.0]]), pairs_of([0]), torch.tensor([[0.0, -200.0]]))
    assert found["kl"].item() == pytest.approx(100.0)


def test_gradients_pass() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    measure(logits, pairs_of([0, 1, 2], [3, 3, 3]))["logit_difference"].sum().backward()
    expected = torch.zeros(3, 5, dtype=torch.float64)
    expected[[0, 1, 2], [0, 1, 2]], expected[:, 3] = 1, -1
    assert logits.grad is not None and torch.equal(logits.grad, expected)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: measure(torch.zeros(3, 5), pairs_of([1, 2])), ["(3, 5)", "2 prompts"]),
        (
            lambda: measure(torch.zeros(2, 5), pairs_of([1, 2]), torch.zeros(2, 6)),
            ["clean logits (2, 6)"],
        ),
        (
            lambda: measure(torch.zeros(2, 5), pairs_of([1, 5])),
            ["answer is 5", "logits of 5 tokens"],
        ),
        (lambda: interval(torch.zeros(3), resamples=0), ["resamples", "Give 1000"]),
        (lambda: interval(torch.zeros(3), level=95), ["level is 95", "between 0 and 1"]),
    ],
)
def test_errors_say_what_to_do(call, parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        call()
    for part in parts:
        assert part in str(error.value)


def test_the_bootstrap_resamples_prompts_and_the_same_for_every_patch() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]])
    means = resampled_means(values, seed=0, resamples=400)
    possible = {round((a + b + c) / 3, 9) for a in (1, 2, 4) for b in (1, 2, 4) for c in (1, 2, 4)}
    assert {
        round(m, 9) for m in means[0].tolist()
    } == possible  # 10 means; the rarest have probability 1/27
    torch.testing.assert_close(means[1], 10 * means[0])
    again = resampled_means(values, seed=0, resamples=400)
    assert torch.equal(means, again) and not torch.equal(
        means, resampled_means(values, seed=1, resamples=400)
    )
    found = interval(values, resamples=400)
    assert found.value.tolist() == [values[0].double().mean(), values[1].double().mean()]
    torch.testing.assert_close(found.low, torch.tensor(np.quantile(means.numpy(), 0.025, axis=1)))
    torch.testing.assert_close(found.high, torch.tensor(np.quantile(means.numpy(), 0.975, axis=1)))


def test_the_interval_covers_the_planted_mean_as_often_as_it_says() -> None:
    # 400 experiments of 100 prompts
    draws = torch.randn(400, 100, generator=torch.Generator().manual_seed(3)) + 5
    found = interval(draws)
    share = ((found.low <= 5) & (found.high >= 5)).double().mean().item()
    # the percentile bootstrap covers slightly less
    assert 0.95 - 4 * math.sqrt(0.95 * 0.05 / 400) < share + 0.01
    assert share < 0.99
    width = (found.high - found.low).mean().item()
    assert width == pytest.approx(2 * 1.96 / math.sqrt(100), rel=0.05)


def test_paired_differences_are_narrower() -> None:
    generator = torch.Generator().manual_seed(4)
    # what makes a prompt easy is common to both runs
    easy = torch.randn(200, generator=generator) * 10
    clean, patched = easy, easy - 1 + 0.1 * torch.randn(200, generator=generator)
    difference = interval(patched - clean)
    assert difference.low > -1.1 and difference.high < -0.9
    assert interval(patched).high - interval(patched).low > 1


def test_intervals_that_are_undefined() -> None:
    assert interval(torch.tensor([3.0])).value == 3 and interval(torch.tensor([3.0])).low.isnan()
    found = interval(torch.tensor([[1.0, math.nan], [1.0, 2.0]]))
    assert found.value.isnan().tolist() == [True, False] == found.high.isnan().tolist()
    assert percentiles(torch.tensor(1.0), torch.tensor([1.0, math.nan])).high.isnan()
