"""Scratch arrays of training steps, kept for the next of the same shape, in each thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from homolog.dictionaries.hardware import Threads
from homolog.dictionaries.training.state import SaeState

BLOCK = 512  # tokens whose product is computed at once
DENSE = {True: 1 / 48, False: 1 / 12}
"""Share of features in use above which whole products pay; in bfloat16 (True) or float32."""
_local = threading.local()


class Scratch:
    """What a step needs beside the weights: entries of active features, errors, sums of blocks."""

    def __init__(self, state: SaeState, n_tokens: int) -> None:
        self.n_tokens = n_tokens
        self.blocks = [(i, min(i + BLOCK, n_tokens)) for i in range(0, n_tokens, BLOCK)]
        self.block, n = min(BLOCK, n_tokens), len(self.blocks)
        self.d_sae, self.n_vectors = state.d_sae, len(state.vectors)
        self.aux_k = min(state.auxiliary.k, state.d_sae) if state.auxiliary else 0
        if state.rules.select == "of batch":
            limit = self.block * min(state.d_sae, 32 * state.k)
        elif state.rules.select == "largest":
            limit = self.block * state.k
        else:
            limit = int(self.block * state.d_sae * min(1.0, 2 * DENSE[state.half]))
        self.make_entries(limit)
        self.g = np.empty((n_tokens * (2 if self.aux_k else 1), state.d_model), np.float32)
        self.squared, self.penalised = np.zeros(n), np.zeros(n)
        self.d_bias = np.zeros((n, state.d_model), np.float32)
        self.offset = np.zeros(state.d_sae + 1, np.int64)
        self.dense: DenseScratch | None = None

    def n_entries(self, ends: np.ndarray) -> int:
        """How many entries there are, with where those of each block end."""
        return int(ends.sum()) - self.region * sum(range(len(self.blocks)))

    def make_entries(self, limit: int) -> None:
        """Arrays of entries, `limit` for each block; behind them those of the auxiliary loss."""
        self.limit = limit
        self.aux_start = limit + self.d_sae + 64
        self.region = self.aux_start + self.block * self.aux_k + self.d_sae + 64
        n = len(self.blocks)
        self.index, self.token, self.order = (np.empty(n * self.region, np.int32) for _ in range(3))
        numbers = [np.empty(n * self.region, np.float32) for _ in range(5)]
        self.value, self.f, self.h, self.h_twin, self.d = numbers
        self.v = self.d[None]
        if self.n_vectors > 1:
            self.v = np.empty((self.n_vectors, n * self.region), np.float32)
        self.starts = np.zeros((2 * n, self.block + 1), np.int64)

    def start(self, b: int, auxiliary: bool = False) -> np.ndarray:
        """Where the entries of each token of a block begin, and the last ends."""
        low, high = self.blocks[b]
        return self.starts[b + auxiliary * len(self.blocks)][: high - low + 1]

    def begin(self, b: int, auxiliary: bool = False) -> np.ndarray:
        """`start` with its first place set."""
        start = self.start(b, auxiliary)
        start[:] = b * self.region + auxiliary * self.aux_start
        return start


@dataclass(frozen=True, eq=False)
class Job:
    """One step of a dictionary, as its parts are given it."""

    state: SaeState
    x: torch.Tensor
    """A batch (token, d_model), float32 and contiguous."""
    seen: torch.Tensor
    """What products see of it: bfloat16, or x itself."""
    penalty: float
    """Weight of what is penalised, over the number of tokens."""
    scratch: Scratch
    threads: Threads

    @property
    def factor(self) -> np.float32:
        """Slope of the loss in an error, over the error."""
        return np.float32(2 / self.scratch.n_tokens)

    def product(self, part: slice) -> torch.Tensor:
        """x W_enc of some tokens, as precise as `seen`; the thread's next overwrites it."""
        seen, d_sae = self.seen[part], self.state.d_sae
        out = matrix("product", len(seen), d_sae, seen.dtype)
        return torch.mm(seen, self.state.W_product.T, out=out)

    def each_block(self, work: Callable[[int], None]) -> None:
        """work(number) for every block of tokens."""
        self.threads.run(work, range(len(self.scratch.blocks)))


class DenseScratch:
    """What a dense step needs: features and slopes of all tokens of a batch, and sums of blocks."""

    def __init__(self, state: SaeState, n_tokens: int, n_blocks: int) -> None:
        dtype = torch.bfloat16 if state.half else torch.float32
        self.f, self.h = (torch.empty(n_tokens, state.d_sae, dtype=dtype) for _ in range(2))
        n_half, sums = n_tokens if state.half else 0, (n_blocks, state.d_sae)
        self.g_half = torch.empty(n_half, state.d_model, dtype=torch.bfloat16)
        self.sums = np.zeros((n_blocks, len(state.vectors), state.d_sae), np.float32)
        self.total, self.count, self.seen = (np.zeros(sums, np.float32) for _ in range(3))


def scratch_for(state: SaeState, n_tokens: int) -> Scratch:
    """The calling thread's scratch for steps of this shape."""
    shape = (*state.shape, n_tokens)
    if getattr(_local, "shape", None) != shape:
        _local.scratch = None  # freed before the next is made
        _local.scratch, _local.shape = Scratch(state, n_tokens), shape
    return _local.scratch


def matrix(name: str, n_tokens: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """A matrix (n_tokens, width) of the calling thread; the next of this name overwrites it."""
    kept = getattr(_local, name, None)
    if kept is None or kept.shape[1] != width or kept.dtype != dtype or len(kept) < n_tokens:
        kept = torch.empty(max(n_tokens, BLOCK), width, dtype=dtype)
        setattr(_local, name, kept)
    return kept[:n_tokens]


def pair(values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(bfloat16 bits, float32 values) of a matrix: the one that it is not in has size 0."""
    if values.dtype == torch.bfloat16:
        return values.view(torch.uint16).numpy(), np.empty((0, 0), np.float32)
    return np.empty((0, 0), np.uint16), values.numpy()
