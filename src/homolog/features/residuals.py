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
from homolog.features.sinks import Limits, above_limits, any_of
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
    limits: Limits | None = None,
    memory: int = SHARD_BYTES,
    advance: Callable[[int], None] | None = None,
    layers: Sequence[int] | None = None,
) -> Path:
    """Residuals after blocks, special tokens dropped; goes on where a killed run stopped.

    key: identifies the model, with its revision and dtype.  dtype: torch.float32, or torch.bfloat16
    in half the space.  limits: of `sinks`, which are dropped as well, from all layers.  memory:
    bytes of residuals held at once, in float32.  advance: called with a shard's number of tokens.
    layers: numbers of blocks, all by default.  Returns the folder.
    """
    folder = Path(folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    layers, parts = list(range(model.n_layers) if layers is None else layers), []
    for shard in cut_shards(windows, model, memory, len(layers)):
        parts.append(write_shard(model, windows, shard, folder, key, dtype, layers, limits))
        if advance is not None:
            advance(shard.of(windows).n_tokens)
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
    limits: Limits | None = None,
) -> dict[str, str | int]:
    """Write the shard's part of each layer that does not have it whole.

    Returns the manifest's entry: the parts' key, and their rows.
    """
    text, limits = shard.of(windows), limits or {}
    dropped = [f"without norms over {sorted(limits.items())}"] if limits else []
    key = sha256_bytes(f"residuals {RESIDUALS_FORMAT}", key, text.hash, str(dtype), *dropped)
    paths = {layer: residual_part(folder, layer, shard.number) for layer in layers}
    rows = {layer: _n_rows(path, key) for layer, path in paths.items()}
    missing = [layer for layer, n in rows.items() if n is None]
    if not missing:
        return {"key": key, "tokens": rows[layers[0]] or 0}
    logger.info("residuals of shard %d: %d of %d layers", shard.number, len(missing), len(paths))
    residuals = capture_residuals(model, text, sorted({*missing, *limits}))
    kept = ~any_of(above_limits(residuals, limits)) if limits else None
    n = 0
    for layer in missing:
        x = residuals.pop(layer)
        x = (x if kept is None else x[kept]).to("cpu", dtype)
        array = x.view(torch.uint16).numpy() if dtype == torch.bfloat16 else x.numpy()
        write_part(paths[layer], {"x": array}, key)
        n = len(array)
    return {"key": key, "tokens": n}


def _n_rows(path: Path, key: str) -> int | None:
    """Rows of a part, None where it has to be made."""
    part = read_part(path, key)
    return None if part is None else len(part["x"])
