"""Which positions the key part of a circuit reads from the end: its hidden attention.

For every prompt the weights of the last position are taken as they are in size, mean of |alpha|
over the channels or heads of the part, and as a share of their sum over all positions, which
compares models:

    weight[s] = mean over channels of |alpha[T, s]|        share[s] = weight[s] / sum of weight

`models.hidden_attention` has alpha of every mixer, and the source.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from homolog.circuits.known import require_paths
from homolog.circuits.metrics import interval
from homolog.circuits.parts import part_name
from homolog.circuits.prompts import Prompts, label
from homolog.corpus.tasks import PromptPairs
from homolog.models import LanguageModel, hidden_attention
from homolog.models.sites import Site
from homolog.record.circuits import ANOTHER, END, READ_POSITIONS, REPLACE_B, START

NEAR_B = (-2, -1, 0, 1, 2, 3)  # B-1 is A


def attention_rows(model: LanguageModel, prompts: Prompts, key: str) -> list[dict[str, Any]]:
    """One row per labelled position, over the prompts that have it.

    The last position is the end, and what stands first the start, where they are near B, too.


    key   the key head (z.2.3) or key state (state.5) of the model's circuit
    """
    pairs = prompts.pairs(model, REPLACE_B)
    part = reading_part(model, key)
    weight = weights_at_the_end(model, pairs, part, prompts.batch)
    share = weight / weight.sum(-1, keepdim=True)
    rows = []
    for name, at in labelled(pairs).items():
        there = at.any(-1)
        if not there.any():
            continue
        row: dict[str, Any] = {"part": part, "position": name, "n_prompts": int(there.sum())}
        for column, values in (("share", share), ("weight", weight)):
            of_prompt = (values * at).sum(-1)[there] / at.sum(-1)[there]
            row |= interval(of_prompt, seed=prompts.seed).columns(column)
        rows.append(row)
    return rows


def reading_part(model: LanguageModel, key: str) -> str:
    """The part that reads: the head itself, or the mixer that has the state."""
    mixer = require_paths(model).mixer(key)
    return key if Site.parse(key).kind == mixer.readout else part_name(mixer)


def weights_at_the_end(model: LanguageModel, pairs: PromptPairs, part: str, batch: int) -> Tensor:
    """Mean |alpha| from the last position, float64 (prompt, position)."""
    found = []
    with torch.no_grad():
        for first in range(0, len(pairs), batch):
            tokens = pairs.clean[first : first + batch]
            alpha = hidden_attention(model.plain, tokens, part, queries=[-1], groups=1)
            found.append(alpha[:, 0, 0].abs().double().cpu())
    return torch.cat(found)


def labelled(pairs: PromptPairs) -> dict[str, Tensor]:
    """Which positions of each prompt have which label, (prompt, position) of truths."""
    place = torch.arange(pairs.length).expand(len(pairs), -1)
    begun, end = place < pairs.n_begun, place == pairs.length - 1
    by_label, free = {START: begun, END: end}, ~(begun | end)
    for offset in NEAR_B:
        at = (place == pairs.positions["B"][:, None] + offset) & free
        by_label["A" if offset == -1 else label("B", offset)] = at
        free = free & ~at
    by_label[ANOTHER] = free
    return {name: by_label[name] for name in READ_POSITIONS}
