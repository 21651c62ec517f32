"""Train a model of the zoo: deterministic from its seed, resumable, on a CPU or a GPU.

Adam with decoupled weight decay, linear warm-up, cosine decay; bfloat16 products where that is
faster (autocast), weights and moments in float32.  A checkpoint holds weights, moments and the
step; the data follow from the step, so that a run that was killed ends with the same bytes as one
that was not.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.load import untrained
from homolog.progress import Progress
from homolog.record.atomic import atomic_path, write_json
from homolog.zoo.catalog import TOKENIZER, Entry, entry, training_texts
from homolog.zoo_training.card import write_card
from homolog.zoo_training.data import Mixture, batch_at

N_SPECIAL = 1  # the end-of-text token has id 0
CHECKPOINT_EVERY = 500  # steps


@dataclass(frozen=True)
class ZooTraining:
    """How one architecture of the zoo is trained."""

    steps: int = 7200
    lr: float = 2e-3  # peak
    horizon: int = 7200  # steps of the cosine decay
    lr_end: float = 0.03  # share of the peak that is left at the horizon
    warmup: int = 200  # steps
    weight_decay: float = 0.05  # matrices only; not A_log
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0  # norm of the gradient
    autocast: bool = True  # products in bfloat16
    mixture: Mixture = field(default_factory=Mixture)


# Mamba learns faster here: it stops early, where it predicts held-out text about as well as the
# Transformer does.
CONFIGS = {
    "gpt_neox": ZooTraining(steps=9600, lr=3e-3, horizon=9600),
    "mamba": ZooTraining(steps=4800, lr=3e-3, autocast=False),
}


def train(
    name: str, out: Path, device: str = "cpu", seed: int | None = None, *, progress: Progress
) -> Path:
    """Train the zoo's `name` into the folder `out`, a plain Hugging Face folder, float16.

    Returns `out`.  `seed` replaces the entry's own.  Continues from the checkpoint in `out` when it
    is of the same recipe.
    Errors: InputError for an unknown or untrained entry, or a checkpoint of another recipe.
    """
    chosen = entry(name)
    if not chosen.trained:
        requirement = "the untrained twins are made from their seed"
        raise InputError("model", name, requirement, "Name a model without '-random'.")
    config = CONFIGS[chosen.architecture]
    chosen = chosen if seed is None else Entry(chosen.name, chosen.architecture, seed)
    model = untrained(chosen, device)
    recipe = {"model": asdict(chosen), "training": asdict(config)}
    out.mkdir(parents=True, exist_ok=True)
    optimizer = _optimizer(model, config)
    checkpoint = out / "checkpoint.safetensors"
    start = _restore(checkpoint, recipe, model, optimizer) if checkpoint.exists() else 0
    stream = token_stream()
    tokens_per_step = config.mixture.batch * config.mixture.context
    began = time.monotonic()
    with (
        progress.stage(f"train {name}", config.steps) as bar,
        open(out / "log.jsonl", "a", encoding="utf-8") as log,
    ):
        bar.advance(start)
        for step in range(start, config.steps):
            loss = _step(model, optimizer, config, stream, step)
            bar.advance(1)
            if step % 50 == 0 or step == config.steps - 1:
                speed = (step + 1 - start) * tokens_per_step / (time.monotonic() - began)
                line = {"step": step, "loss": round(loss, 4), "tokens_per_s": round(speed)}
                log.write(json.dumps(line) + "\n")
                log.flush()
            if (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < config.steps:
                _save(checkpoint, recipe, model, optimizer, step + 1)
    _publish(model, out, recipe)
    checkpoint.unlink(missing_ok=True)
    return out


def token_stream() -> np.ndarray:
    """The training text as one int64 array of token ids, each document with its end of text."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    texts = training_texts()
    documents = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return np.concatenate([np.array([*ids, tokenizer.eos_token_id], np.int64) for ids in documents])


def _optimizer(model: LanguageModel, config: ZooTraining) -> torch.optim.AdamW:
    named = list(model.hf.named_parameters())
    decayed = [p for n, p in named if p.ndim > 1 and not n.endswith("A_log")]
    rest = [p for n, p in named if p.ndim <= 1 or n.endswith("A_log")]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def _step(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    config: ZooTraining,
    stream: np.ndarray,
    step: int,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = _lr(config, step)
    batch, weights = batch_at(config.mixture, stream, step, N_SPECIAL)
    tokens = torch.from_numpy(batch).to(model.device)
    weight = torch.from_numpy(weights).to(model.device).flatten()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=config.autocast):
        logits = model.run(tokens[:, :-1]).logits
    assert logits is not None
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    loss = (losses * weight).sum() / weight.sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.hf.parameters(), config.clip)
    optimizer.step()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss of step {step} is {value}; the last checkpoint is kept")
    return value


def _lr(config: ZooTraining, step: int) -> float:
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = min(1.0, (step - config.warmup) / max(1, config.horizon - config.warmup))
    return config.lr * (config.lr_end + (1 - config.lr_end) * 0.5 * (1 + math.cos(math.pi * done)))


def _moments(model: LanguageModel) -> Iterator[tuple[str, str, torch.nn.Parameter]]:
    for name, parameter in model.hf.named_parameters():
        for key in ("exp_avg", "exp_avg_sq", "step"):
            yield f"{key}:{name}", key, parameter


def _save(
    path: Path,
    recipe: dict[str, Any],
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    tensors = {f"weight:{n}": p.detach().clone() for n, p in model.hf.named_parameters()}
    tensors |= {label: optimizer.state[p][key].clone() for label, key, p in _moments(model)}
    metadata = {"recipe": json.dumps(recipe, sort_keys=True), "step": str(step)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def _restore(
    path: Path, recipe: dict[str, Any], model: LanguageModel, optimizer: torch.optim.Optimizer
) -> int:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if metadata["recipe"] != json.dumps(recipe, sort_keys=True):
        remedy = "Choose another folder, or delete it."
        raise InputError("out", str(path.parent), "its checkpoint is of another recipe", remedy)
    tensors = load_file(path, device=str(model.device))
    with torch.no_grad():
        for name, parameter in model.hf.named_parameters():
            parameter.copy_(tensors[f"weight:{name}"])
    for label, key, parameter in _moments(model):
        optimizer.state[parameter][key] = tensors[label].clone()
    return int(metadata["step"])


def _publish(model: LanguageModel, out: Path, recipe: dict[str, Any]) -> None:
    """Write weights and tokenizer as a Hugging Face folder, the recipe, and the measured card."""
    model.hf.half().save_pretrained(out)
    for file in TOKENIZER.iterdir():
        shutil.copy(file, out)
    write_json(out / "training.json", recipe)
    write_card(out)
