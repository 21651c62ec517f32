"""What several tests of features build: a short stream, cut into passes of a few windows, and files
as bytes.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np

from homolog import LanguageModel
from homolog.corpus import TokenWindows

CAPTURE = importlib.import_module(
    "homolog.features.capture"
)  # the package has a function of that name
CONTEXT, BATCH = 32, 4  # tokens of a window, windows of a pass


def stream(n_windows: int, seed: int) -> TokenWindows:
    """Random tokens; special ones, which are masked, are a different number in every window."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 300, (n_windows, CONTEXT)).astype(np.int32)
    document = (
        np.repeat(np.arange(n_windows * CONTEXT // 64), 64).reshape(tokens.shape).astype(np.int32)
    )
    return TokenWindows(
        tokens, document, rng.random(tokens.shape) > 0.05, tokenizer_fingerprint="f"
    )


def memory(model: LanguageModel, passes: int) -> int:
    """Bytes of the residuals of so many passes."""
    return passes * BATCH * CONTEXT * model.n_layers * model.d_model * 4


def contents(folder: Path) -> dict[str, bytes]:
    """All files under a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
