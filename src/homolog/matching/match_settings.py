"""How two matrices are matched: what a recipe says of a study in [matching], and where it runs."""

from __future__ import annotations

from copy import copy
from typing import Any

from pydantic import Field

from homolog.record.recipe import Machine, Matching
from homolog.record.settings import Settings


def _of(table: type[Settings], name: str) -> Any:
    """A setting as a study has it: its default, bounds and meaning."""
    return copy(table.model_fields[name])


class MatchSettings(Settings):
    """Settings of `homolog.match`; most are a recipe's, with its names, defaults and meanings."""

    resamples: int = _of(Matching, "resamples")

    null_exchanges: int | None = Field(default=None, ge=0)
    """Exchanges of whole documents behind the null of the maximum; by default 2, and where there
    are few features as many as give the null 1,000 draws, or as documents allow.
    """

    fdr: float = _of(Matching, "fdr")
    margin: float = _of(Matching, "margin")
    control_credit: float = _of(Matching, "control_credit")
    rival_ratio: float = _of(Matching, "rival_ratio")
    least_documents: int = _of(Matching, "least_documents")

    seed: int = Field(default=0, ge=0)
    """Of the exchanges and of the resamples."""

    device: str = _of(Machine, "device")

    threads: int | None = Field(default=None, ge=1)
    """CPU threads; all by default."""
