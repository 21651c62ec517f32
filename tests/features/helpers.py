"""What tests of features build: short streams, passes of a few windows, files as bytes."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np

from homolog import LanguageModel, Site
from homolog.corpus import TokenWindows

# by its name, for the package has a function of the same
CAPTURE = importlib.import_module("homolog.features.capture")
CONTEXT, BATCH = 32, 4  # tokens of a window, windows of a pass


def stream(n_windows: int, seed: int) -> TokenWindows:
    """Random tokens; special ones, which are masked, are a different number in every window."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 300, (n_windows, CONTEXT)).astype(np.int32)
    document = np.repeat(np.arange(n_windows * CONTEXT // 64, dtype=np.int32), 64)
    mask = rng.random(tokens.shape) > 0.05
    return TokenWindows(tokens, document.reshape(tokens.shape), mask, tokenizer_fingerprint="f")


def residual_sites(model: LanguageModel) -> list[Site]:
    """The residual stream after every block."""
    return [Site("resid", layer) for layer in range(model.n_layers)]


def memory(model: LanguageModel, passes: int) -> int:
    """Bytes of the residuals of so many passes."""
    return passes * BATCH * CONTEXT * model.n_layers * model.d_model * 4


def contents(folder: Path) -> dict[str, bytes]:
    """All files under a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
