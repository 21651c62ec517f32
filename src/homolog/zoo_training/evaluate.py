"""How well a model of the zoo predicts text, copies, and does tasks.

Induction score: for windows that are one random segment of n tokens and its repeat, the mean loss
of the first pass less that of the second, in nats.  First pass: targets 1 to n - 1 (nothing
precedes target 0).  Second pass: the same targets at n + 1 to 2n - 1; the first token of the repeat
cannot be known and is left out.

Tasks, on prompts of `corpus.tasks`: what a model solves (`circuits.ability`), and the share with
the answer on top of the whole vocabulary.  "induction" is the paper's own prompt: 64 random tokens
of which the last stands there once before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from homolog.circuits.ability import task_ability
from homolog.circuits.prompts import answers
from homolog.corpus import pack, read_documents
from homolog.corpus.tasks import TASKS, make_task
from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.zoo_training.data import random_segment

LENGTHS = (16, 64)
EXAMINED = ("induction", "natural_induction", "associative_recall", "agreement", "greater_than")


def held_out_stream(
    tokenizer: PreTrainedTokenizerBase, source: str | Path = "zoo:demo"
) -> np.ndarray:
    """Text that a model has not seen, as one int64 array of token ids.

    source: as for `read_documents`; what the families have not seen is "zoo:domains".
    """
    windows = pack(read_documents(str(source), shuffle=False), tokenizer, 128)
    return windows.tokens.reshape(-1).astype(np.int64)


def token_losses(model: LanguageModel, tokens: np.ndarray, batch: int = 64) -> np.ndarray:
    """Loss of predicting tokens[:, 1:] from what precedes: (windows, context - 1), float32 nats."""
    rows = []
    with torch.inference_mode():
        for part in torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)).split(batch):
            logits = model.run(part[:, :-1]).logits
            assert logits is not None
            losses = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), part[:, 1:].flatten().to(logits.device), reduction="none"
            )
            rows.append(losses.view(len(part), -1).cpu().numpy())
    return np.concatenate(rows)


def held_out_loss(
    model: LanguageModel, stream: np.ndarray, context: int = 128, n_windows: int = 1024
) -> float:
    """Mean loss over the first `n_windows` windows, of `context` + 1 tokens each, of a stream."""
    n = min(n_windows, (len(stream) - 1) // context)
    windows = np.stack([stream[i * context : i * context + context + 1] for i in range(n)])
    return float(token_losses(model, windows).mean(dtype=np.float64))


def induction(
    model: LanguageModel,
    stream: np.ndarray,
    n_segments: int = 256,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The score for segments of 16 and of 64 tokens, in nats a token.

    source: what a segment's tokens are drawn by, "corpus" frequencies or "uniform".  first, second:
    loss of each pass.  gain: by how much the second is predicted better.
    """
    rows = []
    for length in LENGTHS:
        for source in ("corpus", "uniform"):
            ids = range(1, model.hf.config.vocab_size) if source == "uniform" else None
            rng = np.random.default_rng((seed, length, ids is not None))
            segments = np.stack(
                [random_segment(rng, stream, length, ids) for _ in range(n_segments)]
            )
            losses = token_losses(model, np.concatenate([segments, segments], axis=1))
            first, second = float(losses[:, : length - 1].mean()), float(losses[:, length:].mean())
            passes = {"first": first, "second": second, "gain": first - second}
            rows.append({"length": length, "source": source} | passes)
    return rows


def examined(model: LanguageModel, source: str | Path = "zoo:demo") -> list[dict[str, Any]]:
    """How well the model does the tasks of `EXAMINED`, a row for each.

    task, title.  solved, chance, on_top: shares of the prompts, as the module's text has them; with
    the reason as `why` in their place where the tokenizer has no prompts of the task.  source: text
    for natural induction, as for `read_documents`.
    """
    rows: list[dict[str, Any]] = []
    for name in EXAMINED:
        row: dict[str, Any] = {"task": name, "title": TASKS[name].title}
        text: dict[str, Any] = {"windows": str(source)} if name == "natural_induction" else {}
        try:
            pairs = make_task(name, model, **text)
        except InputError as error:
            rows.append(row | {"why": str(error)})
            continue
        able = task_ability(answers(model, pairs, 64), model.hf.config.vocab_size)
        rows.append(row | {"solved": able.solved, "chance": able.chance, "on_top": able.accuracy})
    return rows


def scores(model: LanguageModel, source: str | Path = "zoo:demo") -> dict[str, Any]:
    """Everything the model card states, as JSON values; `source` is text the model has not seen."""
    stream = held_out_stream(model.require_tokenizer(), source)
    return {
        "held_out_loss": held_out_loss(model, stream),
        "induction": induction(model, stream),
        "tasks": examined(model, source),
        "n_parameters": model.n_parameters,
    }
