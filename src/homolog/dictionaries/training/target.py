"""The weight of the penalty at which a dictionary has the L0 that was asked for, found in training.

    log w  <-  log w + GAIN / T * lr_t / lr * clip(log(L0_t / target), -1, 1)

after step t of T, with the features L0_t that were active on a token of its batch.  It moves as
long as the step size does not fall much, then slower and slower, and in the last steps not at all;
nor while the weight rises in a warm-up.
"""

from __future__ import annotations

import math

import numpy as np

from homolog.dictionaries.configs import TrainingConfig

GAIN = 30.0
"""By how much log w changes in a training whose L0 is e times the target all along."""
FROZEN = 0.1
"""Share of the steps, the last ones, at one weight."""
RANGE = 1e4
"""The weight stays within this factor of where it began."""


class TargetL0:
    """A weight on its way to the one that holds a target.

    start: the weight at the first step.  warmup: share of the steps over which it rises from 0.
    """

    def __init__(
        self, target: float, start: float, warmup: float, training: TrainingConfig
    ) -> None:
        self.target, self.training = target, training
        self.first = math.ceil(warmup * training.n_steps)
        self.last = training.n_steps - math.ceil(FROZEN * training.n_steps)
        self.log_weight = np.array([math.log(start)])
        """All that a checkpoint has to hold."""
        self.bounds = np.log(start) - np.log(RANGE), np.log(start) + np.log(RANGE)

    @property
    def weight(self) -> float:
        """Of the next step."""
        return math.exp(self.log_weight[0])

    def follow(self, step: int, l0: float) -> None:
        """Move the weight after a step in which this many features of a token were active."""
        if not self.first <= step < self.last:
            return
        error = math.log(max(l0, 1e-9) / self.target)
        rate = GAIN / self.training.n_steps * self.training.lr_at(step) / self.training.lr
        moved = self.log_weight + rate * min(max(error, -1.0), 1.0)
        self.log_weight[:] = np.clip(moved, *self.bounds)
