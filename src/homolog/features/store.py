"""Features of many dictionaries on a long token stream, shard by shard, with bounded memory.

    for every shard       run the model once, and for every dictionary encode and write one part
    for every dictionary  close its folder: statistics over all parts, then the manifest

A shard's parts carry the key of all they depend on (`record.parts`), so a process killed at any
point loses the shard in work, another process may do another shard, and what is damaged is named
and made again; the files are the same bytes in every case.  Values do not depend on how the stream
is cut: passes hold the same windows (`cut_shards`), and a feature's value follows from its token
alone (`dictionaries.encoder`, which also says where that ends: dense dictionaries may differ in a
last bit).

Memory, besides the model: `memory` bytes of residuals or those of one pass if more, as much again
as one pass computes, one dictionary with its encoder (3.5 times its W_enc), 0.1 GB a thread, and a
part, 8 bytes per stored value.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from homolog.corpus import TokenWindows
from homolog.dictionaries import SparseAutoencoder
from homolog.dictionaries.encoder import SparseEncoder
from homolog.dictionaries.hardware import Precision, product_precision
from homolog.errors import InputError
from homolog.features.activations import sparse_arrays, sparse_statistics
from homolog.features.capture import SHARD_BYTES, Shard, capture_residuals, cut_shards
from homolog.features.files import FORMAT, begin_folder, end_folder, part_path
from homolog.features.stored import StoredFeatures, open_features
from homolog.models import LanguageModel
from homolog.record.atomic import sha256_bytes
from homolog.record.parts import read_part, write_part

logger = logging.getLogger("homolog")


@dataclass(frozen=True)
class Target:
    """Features that are wanted: one dictionary of one layer, and the folder for them."""

    folder: Path
    model: str
    """The model's name as matching knows it."""
    layer: int
    label: str
    key: str
    """Identifies the model (with its revision and dtype) and the weights of the dictionary."""
    dictionary: Callable[[], SparseAutoencoder]
    """Gives the dictionary; called once per shard that needs it; may keep it or load it anew."""


def write_features(
    model: LanguageModel,
    windows: TokenWindows,
    targets: Sequence[Target],
    *,
    precision: Precision = "auto",
    memory: int = SHARD_BYTES,
    threads: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[StoredFeatures]:
    """All targets on the whole stream, in this process, continuing what is there.

    advance: called with the number of parts just done; in all there are shards times targets.
    `encode_shard` says the rest.
    """
    shards = cut_shards(windows, model, memory)
    for shard in shards:
        encode_shard(
            model, windows, shard, targets, precision=precision, threads=threads, advance=advance
        )
    product = product_precision(precision, model.device)
    return [close_features(windows, shards, target, product) for target in targets]


def encode_shard(
    model: LanguageModel,
    windows: TokenWindows,
    shard: Shard,
    targets: Sequence[Target],
    *,
    precision: Precision = "auto",
    threads: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write the shard's part of every target that does not have it whole.

    The model runs once, up to the last layer needed, and not at all when nothing is missing.  On a
    CUDA device residuals are encoded there and only active features leave it.  threads: of the
    encoder, torch's own number by default.  Raises InputError when a dictionary is of another
    width, or a residual is not finite.
    """
    product = product_precision(precision, model.device)
    text = shard.of(windows)
    parts = [(part_path(t.folder, shard.number), _part_key(t, text, product), t) for t in targets]
    missing = [part for part in parts if read_part(part[0], part[1]) is None]
    if advance is not None and len(missing) < len(parts):
        advance(len(parts) - len(missing))
    if not missing:
        return
    counts = (shard.number, len(missing), len(parts))
    logger.info("shard %d: %d of %d parts, encoder products in %s", *counts, product)
    layers = sorted({target.layer for _, _, target in missing})
    residuals = capture_residuals(model, text, layers)
    for layer in layers:
        x = residuals.pop(layer)
        for path, key, target in missing:
            if target.layer != layer:
                continue
            encoder = SparseEncoder(target.dictionary(), product, x.device)
            where = f"residuals of {target.model}, layer {layer}, in shard {shard.number}"
            if encoder.d_model != x.shape[1]:
                field = f"dictionary {target.label!r} of {target.model}, layer {layer}"
                requirement = f"the residuals are {x.shape[1]} wide"
                remedy = "Use a dictionary of this model."
                raise InputError(field, encoder.d_model, requirement, remedy)
            rows = encoder.encode(x, threads, where)
            begin_folder(target.folder)
            arrays = sparse_arrays(rows) | {"shape": np.array(rows.shape, np.int64)}
            write_part(path, arrays, key)
            if advance is not None:
                advance(1)


def close_features(
    windows: TokenWindows, shards: Sequence[Shard], target: Target, product: str
) -> StoredFeatures:
    """Complete a target's folder when all its parts are there: statistics and manifest.

    product: precision of the encoder's product, "float32" or "bfloat16", which the manifest
    records.  Parts are read three times, one at a time.  Raises InputError naming a part that is
    missing or damaged.
    """
    texts = [shard.of(windows) for shard in shards]
    keys = [_part_key(target, text, product) for text in texts]

    def parts() -> Iterator[dict[str, np.ndarray]]:
        for shard, key in zip(shards, keys, strict=True):
            path = part_path(target.folder, shard.number)
            part = read_part(path, key)
            if part is None:
                requirement = "it must be there and whole"
                raise InputError("features part", str(path), requirement, "Encode its shard again.")
            yield part

    entries, n_features = [], 0
    for part in parts():
        entries.append({"tokens": len(part["indptr"]) - 1, "stored": len(part["data"])})
        n_features = int(part["shape"][1])
    n_tokens = sum(entry["tokens"] for entry in entries)
    statistics = sparse_statistics(
        lambda: ((part["indices"], part["data"]) for part in parts()), n_tokens, n_features
    )
    origin = {"kind": "sae", "model": target.model, "layer": target.layer, "label": target.label}
    origin |= {"stream_hash": windows.hash, "n_tokens": n_tokens, "n_features": n_features}
    origin |= {"product": product}
    end_folder(target.folder, origin, entries, windows.token_document, vars(statistics))
    return open_features(target.folder)


def _part_key(target: Target, text: TokenWindows, product: str) -> str:
    return sha256_bytes(f"features {FORMAT}", target.key, text.hash, product)
