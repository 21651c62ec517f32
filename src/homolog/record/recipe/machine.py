"""[run]: where models run, and from which seed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from homolog.record.settings import Settings


class Machine(Settings):
    """Where models run, and from which seed."""

    seed: int = Field(default=0, ge=0)
    """Root of every random choice whose seed is not named elsewhere."""

    device: str = "cpu"
    """cpu, cuda, cuda:1 or mps."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision in which the models run."""


class RunSettings(Machine):
    """Where a study runs and from which seed (rotations, resampling, order of training tokens)."""

    shard_mib: int = Field(default=2048, ge=1)
    """MiB of residuals that one task holds; decides how many files features lie in, no number."""

    random_weights: bool = False
    """A rehearsal: the models' true sizes with random weights, and dictionaries made to fire as
    trained ones do.
    """
