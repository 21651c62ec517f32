"""Seeds by name: every random choice has a generator derived from one root and its names.

Two dictionaries of the same width and seed start alike and look matched when they are not; names
keep them apart.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(root: int, *names: object) -> int:
    """63-bit seed of (root, names): the first bytes of BLAKE2b over names with their lengths."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (root, *names):
        text = str(part).encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1


def generator(root: int, *names: object) -> np.random.Generator:
    """numpy generator (PCG64 seeded through SeedSequence) of (root, names)."""
    return np.random.default_rng(np.random.SeedSequence(derive_seed(root, *names)))
