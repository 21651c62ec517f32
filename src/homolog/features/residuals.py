"""Residuals on disk, for training dictionaries of a few layers at a time on any number of tokens.

They take tokens x layers x d_model x 4 bytes, half of it in bfloat16;
`dictionaries.StoredResiduals` reads them.  Each layer is parts (`record.parts`); the manifest is
the receipt (`record.receipts`) that all of them are written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from homolog.corpus import TokenWindows
from homolog.dictionaries.sources import (
    RESIDUALS,
    RESIDUALS_FORMAT,
    StoredLayer,
    probe_digest,
    residual_part,
)
from homolog.features.capture import SHARD_BYTES, Shard, capture_residuals, cut_shards
from homolog.models import LanguageModel
from homolog.record.atomic import sha256_bytes
from homolog.record.parts import read_part, write_part
from homolog.record.receipts import write_receipt

logger = logging.getLogger("homolog")


def write_residuals(
    model: LanguageModel,
    windows: TokenWindows,
    folder: Path | str,
    *,
    key: str,
    dtype: torch.dtype = torch.float32,
    memory: int = SHARD_BYTES,
    advance: Callable[[int], None] | None = None,
    layers: Sequence[int] | None = None,
) -> Path:
    """Residuals after blocks, special tokens dropped; goes on where a killed run stopped.

    key: identifies the model, with its revision and dtype.  dtype: torch.float32, or torch.bfloat16
    in half the space.  memory: bytes of residuals held at once, in float32.  advance: called with a
    shard's number of tokens.  layers: numbers of blocks, all by default.  Returns the folder.
    """
    folder = Path(folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    layers, parts = list(range(model.n_layers) if layers is None else layers), []
    for shard in cut_shards(windows, model, memory, len(layers)):
        text = shard.of(windows)
        part_key = write_shard(model, windows, shard, folder, key, dtype, layers)
        parts.append({"key": part_key, "tokens": int(text.mask.sum())})
        if advance is not None:
            advance(text.n_tokens)
    manifest = {
        "format": RESIDUALS_FORMAT,
        "n_layers": model.n_layers,
        "layers": layers,
        "d_model": model.d_model,
        "dtype": str(dtype).removeprefix("torch."),
        "stream_hash": windows.hash,
        "parts": parts,
    }
    rows = np.arange(sum(part["tokens"] for part in parts))
    probes = [probe_digest(StoredLayer(folder, layer, manifest), rows) for layer in layers]
    write_receipt(folder / "manifest.json", manifest | {"probes": probes}, [], RESIDUALS)
    return folder


def write_shard(
    model: LanguageModel,
    windows: TokenWindows,
    shard: Shard,
    folder: Path,
    key: str,
    dtype: torch.dtype,
    layers: Sequence[int],
) -> str:
    """Write the shard's part of each layer that does not have it whole; returns the parts' key."""
    text = shard.of(windows)
    key = sha256_bytes(f"residuals {RESIDUALS_FORMAT}", key, text.hash, str(dtype))
    paths = {layer: residual_part(folder, layer, shard.number) for layer in layers}
    missing = [layer for layer, path in paths.items() if read_part(path, key) is None]
    if not missing:
        return key
    logger.info("residuals of shard %d: %d of %d layers", shard.number, len(missing), len(paths))
    residuals = capture_residuals(model, text, missing)
    for layer in missing:
        x = residuals.pop(layer).to("cpu", dtype)
        array = x.view(torch.uint16).numpy() if dtype == torch.bfloat16 else x.numpy()
        write_part(paths[layer], {"x": array}, key)
    return key
