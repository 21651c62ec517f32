"""Settings of a training, the same for every kind of dictionary; those of the kinds are in `kinds`.

One flat, frozen model; unknown keys are refused.  Inputs are centred and have norm sqrt(d_model) in
the mean, so weights of penalties, thresholds and bandwidths mean the same for every model.
"""

from __future__ import annotations

from pydantic import Field

from homolog.dictionaries.kinds import KindSettings
from homolog.dictionaries.kinds import parse as parse_config
from homolog.record.recipe import Training

__all__ = ["KindSettings", "TrainingConfig", "parse_config"]


class TrainingConfig(Training):
    """How the dictionaries of one model are trained; defaults suit d_model 128, 768 features."""

    n_tokens: int = Field(default=1_048_576, ge=1)
    """Tokens every dictionary sees; activations are read again, in a new order, as needed."""

    seed: int = Field(default=0, ge=0)
    """Root seed; every (model, dictionary, layer) derives its own from it by name."""

    @property
    def n_steps(self) -> int:
        return max(1, self.n_tokens // self.batch)

    def lr_at(self, step: int) -> float:
        """Step size of the given step, counted from 0."""
        warmup, decay = self.warmup * self.n_steps, self.decay * self.n_steps
        rise = min(1.0, (step + 1) / warmup) if warmup >= 1 else 1.0
        fall = min(1.0, (self.n_steps - step) / decay) if decay >= 1 else 1.0
        return self.lr * min(rise, fall)
