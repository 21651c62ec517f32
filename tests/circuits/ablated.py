"""Logits with nodes ablated, in chunks, as `CircuitEvaluation` makes them for each subset."""

import torch
from torch import Tensor

from homolog.circuits.ablation import Ablation
from homolog.models import LanguageModel, Site


def ablated_logits(
    model: LanguageModel,
    tokens: Tensor,
    ablate: list,
    how: str = "zero",
    source: Tensor | None = None,
    batch: int = 32,
) -> Tensor:
    """(prompt, vocabulary) at the last position; `source` is not read for zeros."""
    sites = [Site.parse(site) for site in ablate]
    ablation = Ablation(model, sites, how, tokens if source is None else source, batch)
    rows = [slice(first, first + batch) for first in range(0, len(tokens), batch)]
    passes = (ablation.logits(tokens[r], [sites], ablation.values(r)) for r in rows)
    return torch.cat([logits for one in passes for _, logits in one])
