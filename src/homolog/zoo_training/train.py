"""Train a model of the zoo: deterministic from its seed, resumable, on a CPU or a GPU.

Muon for matrices and Adam for the rest [Liu 2025], decoupled weight decay, linear warm-up, cosine
decay, through the scans of our own adapters; weights, moments and scans are float32, products
bfloat16 where the device computes them natively.  A checkpoint holds the weights and the
optimizers' moments, and the data follow from the step, so that a run that was killed ends with the
same bytes as one that was not.

[Liu 2025] "Muon is Scalable for LLM Training", arXiv 2502.16982.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

from homolog.dictionaries.hardware import product_precision
from homolog.errors import InputError
from homolog.models.architectures import ADAPTERS
from homolog.models.base import LanguageModel
from homolog.models.random_weights import fresh
from homolog.progress import Progress, Speed
from homolog.record.atomic import atomic_path, write_json
from homolog.zoo_training.card import write_card
from homolog.zoo_training.data import batch_at
from homolog.zoo_training.families import Family, Training, family
from homolog.zoo_training.text.tokenizer import tokens

BETWEEN = 500  # steps from one checkpoint to the next
KEPT = (0, *(2**power for power in range(5, 14)))  # steps whose weights are kept beside the last


def train(name: str, out: Path, text: Path, device: str = "cpu", *, progress: Progress) -> Path:
    """Train the zoo's `name` into the folder `out`, a plain Hugging Face folder, float16.

    name: a family and a seed, as "mamba-2-s0".  text: the folder that `homolog.zoo_training.text`
    makes.  Returns `out`; OUT/steps holds the model at the steps of `KEPT` and at the last.
    Continues from the checkpoint in `out` when it is of the same recipe.  Errors: InputError for an
    unknown name, a folder without text, or a checkpoint of another recipe.
    """
    chosen, seed = family(name)
    config = chosen.training
    model = new_model(chosen, seed, text, device)
    stream = tokens(text)
    recipe = {"name": name, "seed": seed, "model": chosen.model_type, "training": asdict(config)}
    recipe |= {"text": zlib.crc32(stream.tobytes())}
    if chosen.start is not None:
        recipe["start"] = chosen.start.__name__
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.safetensors"
    optimizers = _optimizers(model, config)
    start = _restore(checkpoint, recipe, model, optimizers) if checkpoint.exists() else 0
    tokens_per_step = config.mixture.batch * config.mixture.context
    speed = Speed()
    with (
        progress.stage(f"train {name}", config.steps) as bar,
        open(out / "log.jsonl", "a", encoding="utf-8") as log,
    ):
        bar.skip(start)
        for step in range(start, config.steps):
            if step in KEPT:
                _store(model, out / "steps" / f"step{step}", text)
            loss = _step(model, optimizers, config, stream, step)
            speed.advance(tokens_per_step)
            bar.advance(1, f"loss {loss:.3f}, {speed.per_second:,.0f} tokens/s")
            if step % 50 == 0 or step == config.steps - 1:
                line = {
                    "step": step,
                    "loss": round(loss, 4),
                    "tokens_per_s": round(speed.per_second),
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
            if (step + 1) % BETWEEN == 0 and step + 1 < config.steps:
                metadata = {"recipe": json.dumps(recipe, sort_keys=True), "step": str(step + 1)}
                with atomic_path(checkpoint) as temporary:
                    save_file(_state(model, optimizers), temporary, metadata)
    _store(model, out / "steps" / f"step{config.steps}", text)
    _publish(model, out, recipe, text)
    checkpoint.unlink(missing_ok=True)
    return out


def new_model(chosen: Family, seed: int, text: Path, device: str = "cpu") -> LanguageModel:
    """The family's configuration with fresh float32 weights that the seed draws."""
    hf = fresh(AutoConfig.for_model(chosen.model_type, **chosen.config), seed).to(device)
    if chosen.start is not None:
        chosen.start(hf)
    tokenizer = AutoTokenizer.from_pretrained(text / "tokenizer")
    return ADAPTERS[chosen.model_type](f"{chosen.model_type}-{seed}", hf, tokenizer)


def _optimizers(model: LanguageModel, config: Training) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of linear layers, Adam for embeddings and all else."""
    embeddings = {model.hf.get_input_embeddings().weight, model.hf.get_output_embeddings().weight}
    linear = [m.weight for m in model.hf.modules() if isinstance(m, torch.nn.Linear)]
    matrices = [weight for weight in linear if weight not in embeddings]
    by_muon = set(matrices)
    rest = [(n, p) for n, p in model.hf.named_parameters() if p not in by_muon]
    decayed = [p for n, p in rest if p.ndim > 1 and not n.endswith("A_log")]
    others = [p for n, p in rest if p.ndim <= 1 or n.endswith("A_log")]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(
            matrices, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(groups, betas=config.betas, fused=True),
    ]


def _step(
    model: LanguageModel,
    optimizers: list[torch.optim.Optimizer],
    config: Training,
    stream: np.ndarray,
    step: int,
) -> float:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = _lr(config, step)
    batch, weights = batch_at(config.mixture, stream, step)
    windows = torch.from_numpy(batch).to(model.device)
    weight = torch.from_numpy(weights).to(model.device).flatten()
    native = product_precision("auto", model.device) == "bfloat16"
    with torch.autocast(model.device.type, torch.bfloat16, enabled=native):
        logits = model.run(windows[:, :-1]).logits
    assert logits is not None
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), windows[:, 1:].flatten(), reduction="none"
    )
    loss = (losses * weight).sum() / weight.sum()
    model.hf.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.hf.parameters(), config.clip)
    for optimizer in optimizers:
        optimizer.step()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss of step {step} is {value}; the last checkpoint is kept")
    return value


def _lr(config: Training, step: int) -> float:
    done = max(0.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    lr = config.lr * (config.lr_end + (1 - config.lr_end) * 0.5 * (1 + math.cos(math.pi * done)))
    return lr * min(1.0, (step + 1) / max(1, config.warmup))


def _state(
    model: LanguageModel, optimizers: list[torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    """The weights by their names and, as "NAME:MOMENT", what their optimizer knows of each."""
    names = {parameter: name for name, parameter in model.hf.named_parameters()}
    state = {name: parameter.detach() for parameter, name in names.items()}
    for optimizer in optimizers:
        for parameter, moments in optimizer.state.items():
            state |= {f"{names[parameter]}:{key}": moment for key, moment in moments.items()}
    return state


def _restore(
    path: Path,
    recipe: dict[str, Any],
    model: LanguageModel,
    optimizers: list[torch.optim.Optimizer],
) -> int:
    """Take weights and moments from a checkpoint; returns its step."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if metadata["recipe"] != json.dumps(recipe, sort_keys=True):
        remedy = "Choose another folder, or delete it."
        raise InputError("out", str(path.parent), "its checkpoint is of another recipe", remedy)
    tensors = load_file(path, device=str(model.device))
    names = {parameter: name for name, parameter in model.hf.named_parameters()}
    with torch.no_grad():
        for parameter, name in names.items():
            parameter.copy_(tensors[name])
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            moments = {k: v for k, v in tensors.items() if k.startswith(f"{names[parameter]}:")}
            optimizer.state[parameter] = {k.rpartition(":")[2]: v for k, v in moments.items()}
    return int(metadata["step"])


def _store(model: LanguageModel, folder: Path, text: Path) -> None:
    """The weights as they are and the tokenizer, as a Hugging Face folder in float16."""
    copy.deepcopy(model.hf).half().save_pretrained(folder)
    for file in (text / "tokenizer").iterdir():
        shutil.copy(file, folder)


def _publish(model: LanguageModel, out: Path, recipe: dict[str, Any], text: Path) -> None:
    """Write the model's folder, the recipe, and the measured card."""
    _store(model, out, text)
    write_json(out / "training.json", recipe)
    write_card(out, text)
