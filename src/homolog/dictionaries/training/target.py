"""The weight of the penalty at which a dictionary has the L0 that was asked for, found in training.

    log w  <-  log w + GAIN / T * lr_t / lr * clip(e_t, -1, 1)
    e_t    =   log(L0_t / high_t) above high_t, log(L0_t / target) below target, else 0
    high_t =   target * ABOVE ** max(0, 1 - t / (UNTIL T))
    w_0    =   default * min((16 / target) ** 0.7, 1.6)

after step t of T, with the features L0_t that were active on a token of its batch.  At one weight
the L0 of most trainings falls, as features find their directions: held to its end from the start, a
dictionary loses features in overshoots that it does not get back in a short training.  w_0 is near
enough that little has to be made good later, and not so high that all features fall silent.  The
weight moves less as the step size falls, and not at all in a warm-up and in the last steps.
"""

from __future__ import annotations

import math

import numpy as np

from homolog.dictionaries.configs import TrainingConfig

TOLERANCE = 0.2
"""Share of the target by which the L0 of a finished dictionary may differ on other text."""
_GAIN = 30.0  # change of log w in a training whose L0 is e times the course all along
_ABOVE, _UNTIL = 5.0, 0.7
_FIRST, _FROZEN = 0.1, 0.1  # shares of the steps before and behind those that move the weight
_USUAL, _POWER = 16.0, 0.7  # the defaults of the kinds give an L0 of about 16
_MOST = 1.6  # times the default, at the start
_RANGE = 1e4  # the weight stays within this factor of where it began


class TargetL0:
    """A weight on its way to the one that holds a target.

    default: the weight that gives an L0 of about 16.  warmup: share of the steps over which the
    weight rises from 0.
    """

    def __init__(
        self, target: float, default: float, warmup: float, training: TrainingConfig
    ) -> None:
        self.target, self.training = target, training
        n_steps = training.n_steps
        self.moving = range(
            math.ceil(max(warmup, _FIRST) * n_steps), n_steps - math.ceil(_FROZEN * n_steps)
        )
        start = math.log(default * min((_USUAL / target) ** _POWER, _MOST))
        self.bounds = start - math.log(_RANGE), start + math.log(_RANGE)
        self.log_weight = np.array([start])
        """All that a checkpoint has to hold."""

    @property
    def weight(self) -> float:
        """Of the next step."""
        return math.exp(self.log_weight[0])

    def follow(self, step: int, l0: float) -> None:
        """Move the weight after a step in which this many features of a token were active."""
        if step not in self.moving:
            return
        n_steps = self.training.n_steps
        high = self.target * _ABOVE ** max(0.0, 1 - step / (_UNTIL * n_steps))
        error = math.log(max(l0, 1e-9) / min(max(l0, self.target), high))
        rate = _GAIN / n_steps * self.training.lr_at(step) / self.training.lr
        moved = self.log_weight + rate * min(max(error, -1.0), 1.0)
        self.log_weight[:] = np.clip(moved, *self.bounds)
