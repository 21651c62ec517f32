"""How features are planted: the options of `planted.plant_matches`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from homolog.errors import InputError

LEAK_REACH = 10  # leaks come from the latents nearest in frequency: this many ranks up or down
CONTROLLED = ("token", "token set", "untrained", "mixture")
KINDS = ("shared", *CONTROLLED, "own")

Values = Literal["log-normal", "exponential"]


@dataclass(frozen=True)
class Planting:
    """How features are planted.  Raises InputError for a value outside its range."""

    shared: float = 0.5
    """Share of the columns with a partner."""
    frequency: tuple[float, float] = (1e-4, 1e-1)
    """Range of p_l, log-uniform, at most 0.1."""
    noise: tuple[float, float] = (0.0, 0.6)
    """Range of s, uniform, below 1."""
    leak: float = 0.3
    """Weight of each leak, in units of the mean value of a firing."""
    n_leaks: int = 2
    """Leaks of each column."""
    threshold: float = 0.3
    """Least value that is not cut, in units of the mean value of a firing."""
    values: Values = "log-normal"
    document_tokens: float = 500.0
    """Mean length of a document; lengths are exponential."""
    topic_shape: float = 1.0
    """kappa, small for bursty latents."""
    n_topics: int = 0
    """0 gives every latent its own g; K > 0 lets all latents of both sides share K of them."""
    leak_reach: int | None = LEAK_REACH
    """Ranks of frequency, up or down, from which leaks come; None: any, however rare the column."""
    by_token: float = 0.0
    """Share of the columns without a partner that are functions of the current token."""
    in_untrained: float = 0.0
    """Share of the columns without a partner that the untrained stand-ins have as well."""
    mixed: float = 0.0
    """Share of the columns without a partner that are mixtures of both."""
    vocabulary: int = 10_000
    """Tokens that there are."""
    untrained_noise: float = 0.0
    """How much noisier than what it stands for a stand-in is: added to its s, up to 0.95."""

    def __post_init__(self) -> None:
        low, high = self.frequency
        checked("shared", self.shared, 0 <= self.shared <= 1, "it is a share, from 0 to 1")
        checked("frequency", self.frequency, 0 < low <= high <= 0.1, "0 < low <= high <= 0.1")
        low, high = self.noise
        checked("noise", self.noise, 0 <= low <= high < 1, "0 <= low <= high < 1")
        checked("untrained_noise", self.untrained_noise, 0 <= self.untrained_noise < 1, "0 to 1")
        checked("vocabulary", self.vocabulary, self.vocabulary >= 10, "at least 10 tokens")
        parts = (self.by_token, self.in_untrained, self.mixed)
        checked(
            "by_token, in_untrained, mixed",
            parts,
            min(parts) >= 0 and sum(parts) <= 1,
            "they are shares of the columns without a partner, together at most 1",
        )


def checked(field: str, value: Any, good: bool, requirement: str) -> None:
    """Raises InputError unless `good`."""
    if not good:
        raise InputError(field, value, requirement, "Give a value in that range.")
