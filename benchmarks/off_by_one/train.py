"""A tiny Mamba learns induction; then the Off-by-One test asks where it writes what it copies.

Sequences are different random tokens, but for `QUERIES` places at which an earlier pair A B comes
again; the loss is that of B after the second A, and nothing else can be predicted.  The test's own
prompts (one pair, at the end) are such sequences, so that a model that learnt does them.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers.models.auto.configuration_auto import AutoConfig

from homolog.circuits.induction import trace_induction
from homolog.circuits.off_by_one import OFFSETS, off_by_one
from homolog.circuits.prompts import Prompts, ability
from homolog.models.architectures import ADAPTERS
from homolog.models.base import LanguageModel
from homolog.models.random_weights import fresh
from homolog.record.circuits import SHIFT_PREFIX
from homolog.zoo_training.starts import near_linear_attention

VOCABULARY, LENGTH, QUERIES = 32, 24, 5
WIDTH, BATCH, STEPS, CHECK = 64, 64, 2500, 100
LR, WARMUP = 3e-3, 50
LEARNT = 0.95  # accuracy at which training ends
KNOWN = 0.5  # and from which a model is asked how it does it
PROMPTS = Prompts(n_prompts=256, length=LENGTH, seed=1)


@dataclass(frozen=True)
class Tiny:
    """What differs between the models."""

    kernel: int
    """Taps of the convolution; 1: it reads the own position alone."""

    blocks: int
    state: int
    seed: int
    start: str = "usual"
    """How its weights begin: as Hugging Face draws them, or "linear", as those of the zoo."""

    @property
    def name(self) -> str:
        start = "" if self.start == "usual" else f"-{self.start}"
        return f"kernel{self.kernel}-blocks{self.blocks}-state{self.state}{start}-s{self.seed}"


GRID = [
    *(Tiny(k, blocks, 16, seed) for k in (1, 2, 3, 4, 6) for blocks in (2, 4) for seed in (0, 1)),
    *(Tiny(k, 2, state, seed) for k in (2, 4) for state in (4, 8) for seed in (0, 1)),
    *(Tiny(4, 3, 16, seed) for seed in (0, 1)),
    *(Tiny(4, blocks, 16, seed, "linear") for blocks in (2, 4) for seed in (0, 1)),
]


def sequences(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n, LENGTH) int64, and whether each is the B of a pair that comes again."""
    tokens = random.random((n, VOCABULARY)).argsort(1)[:, :LENGTH]
    repeated = np.zeros((n, LENGTH), dtype=bool)
    first = LENGTH // 4
    for row in range(n):
        # slots of two, apart by construction; a pair is taken from before them that is none itself
        slots = np.sort(random.choice((LENGTH - first) // 2, QUERIES, replace=False)) * 2 + first
        taken = np.zeros(LENGTH, dtype=bool)
        for slot in slots:
            taken[slot : slot + 2] = True
            possible = np.flatnonzero(~taken[: slot - 1] & ~taken[1:slot])
            source = int(random.choice(possible))
            tokens[row, slot : slot + 2] = tokens[row, source : source + 2]
            repeated[row, slot + 1] = True
    return tokens, repeated


def new_model(tiny: Tiny) -> LanguageModel:
    """Fresh weights that the seed draws."""
    config = AutoConfig.for_model(
        "mamba",
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=tiny.blocks,
        state_size=tiny.state,
        conv_kernel=tiny.kernel,
        use_cache=False,
    )
    hf = fresh(config, tiny.seed)
    if tiny.start == "linear":
        near_linear_attention(hf)
    return ADAPTERS["mamba"](tiny.name, hf)


def learn(model: LanguageModel, seed: int, steps: int = STEPS) -> tuple[int, float]:
    """(steps taken, accuracy on the test's prompts); ends early once it is `LEARNT`."""
    optimizer = torch.optim.AdamW(model.hf.parameters(), lr=LR, betas=(0.9, 0.98), fused=True)
    right = 0.0
    for step in range(1, steps + 1):
        tokens, repeated = sequences(np.random.default_rng((seed, step)), BATCH)
        ids, asked = torch.from_numpy(tokens), torch.from_numpy(repeated)[:, 1:]
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, step / WARMUP)
        logits = model.run(ids[:, :-1]).logits
        assert logits is not None
        loss = torch.nn.functional.cross_entropy(logits[asked], ids[:, 1:][asked])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.hf.parameters(), 1.0)
        optimizer.step()
        if step % CHECK == 0 or step == steps:
            right = ability(model, PROMPTS).accuracy
            if right >= LEARNT:
                return step, right
    return steps, right


def measured(tiny: Tiny, steps: int = STEPS) -> dict[str, Any]:
    """The row of a model: how it learnt, its verdicts, and what is carried at each offset.

    share_K: of what all places carry of B at offsets of positive effect; predicted_share_K in the
    place that carries most.  matched_share_K, matched_predicted_share_K: the same of A.
    """
    begun = time.perf_counter()
    model = new_model(tiny)
    taken, accuracy = learn(model, tiny.seed, steps)
    row: dict[str, Any] = asdict(tiny) | {"name": tiny.name, "steps": taken, "accuracy": accuracy}
    row["seconds"] = round(time.perf_counter() - begun, 1)
    if accuracy < KNOWN:
        return row
    row["key"] = key = trace_induction(model, PROMPTS).key
    for token, prefix in SHIFT_PREFIX.items():
        found = off_by_one(model, PROMPTS, key, token)
        effect = torch.stack([profile.effect.value.double() for profile in found.profiles])
        total = effect.sum(0).clamp_min(0)
        strongest = max(found.profiles, key=lambda p: float(p.effect.value.max()))
        row |= {f"{prefix}carrier": strongest.place} | found.columns()
        for i, offset in enumerate(OFFSETS):
            row[f"{prefix}share_{offset}"] = float(total[i] / total.sum())
            row[f"{prefix}predicted_share_{offset}"] = float(strongest.predicted[i])
    return row
