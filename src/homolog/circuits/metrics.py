"""How well a model's last logits answer the prompts, before and after a patch.

For logits x, answer a, distractor d, right and wrong choices R and W, and clean logits c, with p =
softmax(x):

    logit                   x_a
    probability             p_a
    logit_difference        x_a - x_d
    kl                      sum_v softmax(c)_v (log softmax(c)_v - log p_v), in nats
    rank                    number of tokens with x_v > x_a; 0 is the most likely
    probability_difference  sum_{v in R} p_v - sum_{v in W} p_v      several are right [Hanna 2023]

No one of them is enough: a patch may lower a logit by lowering all logits alike, which leaves the
probability as it was [Wang 2025].  Means over prompts come with intervals from prompts resampled
with replacement (percentile bootstrap, Efron 1979); the same resampled prompts serve all patches.

[Wang 2025] "Towards Universality", arXiv 2410.06672.  [Hanna 2023] "How does GPT-2 compute
greater-than?", 2305.00586.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from homolog.corpus.tasks.pairs import PromptPairs
from homolog.errors import InputError
from homolog.models.finite import all_finite
from homolog.record.circuits import (
    KL,
    LOGIT,
    LOGIT_DIFFERENCE,
    PROBABILITY,
    PROBABILITY_DIFFERENCE,
    RANK,
)

_AT_ONCE = 2**24  # logits: a working copy of 64 MiB in float32


def measure(
    logits: Float[Tensor, "*patch prompt vocabulary"],
    pairs: PromptPairs,
    clean_logits: Float[Tensor, "_ _"] | None = None,
) -> dict[str, Float[Tensor, "*patch prompt"]]:
    """The metrics of the last position's logits, by name, as the module's text defines them.

    pairs         the prompts, in the order of the logits; `pairs[a:b]` for a chunk of them
    clean_logits  (prompt, vocabulary) of the unpatched run, for kl; without them there is none

    In the logits' dtype. logit_difference is left out when the prompts have no distractor,
    probability_difference when they have one answer. In float32, kl is good to some 1e-6, absolute
    and relative. Gradients follow the caller's grad mode. Memory: a few working copies of at most
    2^24 logits (or one patch's), beside what is given. Raises `InputError`: another number of
    prompts, an answer outside the vocabulary, logits that are not finite (of a patch: a pass
    without edits refuses them itself).
    """
    *leading, n, vocabulary = logits.shape
    _check(logits, pairs, clean_logits)
    log_clean = None if clean_logits is None else _log_probability(clean_logits)
    flat = logits.reshape(-1, n, vocabulary)
    step = max(1, _AT_ONCE // max(1, n * vocabulary))
    parts = [_measure(chunk, pairs, log_clean) for chunk in flat.split(step)] if len(flat) else []
    names = parts[0] if parts else _measure(logits.new_zeros(1, n, vocabulary), pairs, log_clean)
    empty = logits.new_zeros(0, n)
    return {
        name: torch.cat([empty, *(part[name] for part in parts)]).reshape(*leading, n)
        for name in names
    }


def _log_probability(logits: Tensor) -> Tensor:
    """log softmax whose probabilities sum to 1: over a large vocabulary torch's own sum of
    exponentials is, on some processors, 5e-6 off in float32.
    """
    log_p = logits.log_softmax(-1)
    return log_p - log_p.exp().sum(-1, keepdim=True).log()


def _check(logits: Tensor, pairs: PromptPairs, clean_logits: Tensor | None) -> None:
    n, vocabulary = logits.shape[-2:]
    if n != len(pairs) or (clean_logits is not None and clean_logits.shape != (n, vocabulary)):
        clean = "" if clean_logits is None else f", clean logits {tuple(clean_logits.shape)}"
        requirement = f"they must be of {len(pairs)} prompts (patch, prompt, vocabulary){clean}"
        remedy = "Pass the last position's logits and the prompts they are of."
        raise InputError("logits", tuple(logits.shape), requirement, remedy)
    tokens = [t for t in (pairs.answer, pairs.distractor, pairs.choices) if t is not None]
    if (top := max(int(t.max()) for t in tokens)) >= vocabulary:
        remedy = "Make the task with the model's own tokenizer."
        raise InputError("answer", top, f"the model has logits of {vocabulary} tokens", remedy)
    for values in (logits, clean_logits):
        if values is not None and not all_finite(values):
            broken = ~values.detach().isfinite().reshape(-1, n, vocabulary)
            prompt, token = broken.any(0).nonzero()[0].tolist()
            raise InputError(
                "logits",
                "not finite",
                f"metrics need finite ones; those of prompt {prompt} are not at token {token}",
                "Patch with finite values; in half precision a patch may overflow: load the model "
                "in float32.",
            )


def _measure(
    x: Float[Tensor, "patch prompt vocabulary"],
    pairs: PromptPairs,
    log_clean: Float[Tensor, "prompt vocabulary"] | None,
) -> dict[str, Float[Tensor, "patch prompt"]]:
    log_p = _log_probability(x)
    logit = _of(x, pairs.answer)
    values = {LOGIT: logit, PROBABILITY: _of(log_p, pairs.answer).exp()}
    if pairs.distractor is not None:
        values[LOGIT_DIFFERENCE] = logit - _of(x, pairs.distractor)
    if log_clean is not None:
        clean = log_clean.exp()
        # 0 where the clean probability is: log_p is finite as the logits are
        terms = clean * (log_clean - log_p)
        values[KL] = terms.sum(-1).clamp(min=0)  # below 0 by rounding alone
    values[RANK] = (x > logit.unsqueeze(-1)).sum(-1).to(x.dtype)
    if pairs.choices is not None and pairs.right is not None:
        sign = pairs.right.to(x.device, x.dtype) * 2 - 1
        p_of_choices = log_p[..., pairs.choices.to(x.device)].exp()
        values[PROBABILITY_DIFFERENCE] = (p_of_choices * sign).sum(-1)
    return values


def _of(
    values: Float[Tensor, "patch prompt vocabulary"], token: Int64[Tensor, " prompt"]
) -> Tensor:
    """The value of each prompt's token."""
    prompt = torch.arange(values.shape[1], device=values.device)
    return values[:, prompt, token.to(values.device)]


def joined(parts: Sequence[Mapping[str, Tensor]], axis: int = -1) -> dict[str, Tensor]:
    """The metrics of several batches as one, by name, on the CPU."""
    names = parts[0] if parts else ()
    return {name: torch.cat([part[name].cpu() for part in parts], axis) for name in names}


def accuracy(measured: dict[str, Tensor]) -> Tensor:
    """Share of the prompts that are solved, from `measure`: (...,).

    Solved: the answer is the most likely token; for tasks with several right answers, more of the
    probability lies on right choices than on wrong ones.
    """
    several = measured.get(PROBABILITY_DIFFERENCE)
    value = measured[RANK] if several is None else several
    solved = (value == 0) if several is None else (value > 0)
    return solved.double().mean(-1)


class Interval(NamedTuple):
    """A statistic over prompts, such as their mean, and its interval, each float64 (...,)."""

    value: Tensor
    low: Tensor
    high: Tensor

    def at(self, i: int) -> Interval:
        """One of several."""
        return Interval(*(part[i] for part in self))

    def columns(self, name: str) -> dict[str, float]:
        """One value as columns of a row: NAME, NAME_lo, NAME_hi."""
        value, low, high = map(float, self)
        return {name: value, f"{name}_lo": low, f"{name}_hi": high}


def interval(
    values: Float[Tensor, "*patch prompt"],
    *,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 1000,
) -> Interval:
    """Mean over prompts with the percentile bootstrap interval of that level.

    The draws are the same for all patches.  For a paired difference, give the differences:
    `interval(patched - clean)`.  The interval covers other prompts of the same task and nothing
    else.  NaN where a prompt's value is NaN or infinite, or there are fewer than two prompts.
    """
    means = resampled_means(values, seed=seed, resamples=resamples)
    return percentiles(values.detach().double().mean(-1), means, level)


def resampled_means(
    values: Float[Tensor, "*patch prompt"], *, seed: int = 0, resamples: int = 1000
) -> Float[Tensor, "*patch resample"]:
    """Means over prompts drawn with replacement; seed and number of prompts decide the draws."""
    n = values.shape[-1]
    if resamples < 1:
        raise InputError("resamples", resamples, "at least one is needed", "Give 1000.")
    if n < 2:
        return torch.full((*values.shape[:-1], resamples), torch.nan, dtype=torch.float64)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).T / n
    return values.detach().double().cpu() @ torch.from_numpy(counts)


def percentiles(
    value: Float[Tensor, "*patch"], resampled: Float[Tensor, "*patch resample"], level: float = 0.95
) -> Interval:
    """The interval of a statistic from its values on resampled prompts; NaN where one is NaN."""
    if not 0 < level < 1:
        raise InputError("level", level, "it lies between 0 and 1", "Give 0.95.")
    low, high = np.quantile(resampled.numpy(), [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return Interval(value.cpu(), torch.as_tensor(low), torch.as_tensor(high))
