"""Residuals of a model that runs as they are read: training on any number of tokens.

    epoch   all windows of the text in a random order of its own, over all documents
    pool    the next windows of that order with about `Pool.tokens` kept tokens; one forward pass
            gives all layers
    stream  the tokens of pool 0 in random order, then those of pool 1, ...

Positions are addressed: the order of windows follows from (seed, epoch), that of tokens from (seed,
epoch, pool), and nothing is remembered but the last pool, so that a training that was killed reads
on where it stopped.  Read in order, every window passes the model once per epoch.

Neighbours in the stream are from one window with probability context / Pool.tokens, about (1 in
2,048 by default with windows of 128 tokens), else from two windows drawn at random from the whole
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from homolog.axes import Activations
from homolog.corpus import TokenWindows
from homolog.dictionaries.seeds import generator
from homolog.errors import InputError
from homolog.features.capture import fill_residuals
from homolog.features.sinks import Limits, above_limits, any_of
from homolog.models import LanguageModel
from homolog.record.atomic import sha256_bytes
from homolog.record.process import machine
from homolog.threads import library_threads

POOL_TOKENS = 262_144
MEMORY_SHARE = 0.5  # of the memory where the pool lies
POOL_SHARE = 0.25  # of a device's memory; a larger pool lies in main memory
_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Pool:
    """What is in memory at a time.  Raises InputError for sizes and dtypes that cannot be."""

    tokens: int = POOL_TOKENS
    """Kept tokens, about; more mix better."""

    dtype: torch.dtype = torch.float32
    """torch.float32, or torch.bfloat16 in half the space."""

    device: str | torch.device = "cpu"
    """Where it lies."""

    @classmethod
    def on(cls, device: str | torch.device, tokens: int, dtype: torch.dtype, width: int) -> Pool:
        """A pool on the device, or in the host's memory where it would fill the device.

        width: dimensions of a token, of all layers together.
        """
        fits = tokens * width * dtype.itemsize <= POOL_SHARE * device_memory(torch.device(device))
        return cls(tokens, dtype, device if fits else "cpu")

    def __post_init__(self) -> None:
        if self.tokens < 1:
            requirement = "a pool holds a token or more"
            raise InputError("pool_tokens", self.tokens, requirement, "Give some 100,000.")
        if self.dtype not in _DTYPES:
            requirement = "a pool is float32 or bfloat16"
            raise InputError("dtype", str(self.dtype), requirement, "Give one of these.")


class StreamedResiduals:
    """The residuals after some blocks on a text, as a stream (`dictionaries.ActivationSource`).

    model, windows: what runs on what; special tokens are masked by the windows.  layers: numbers of
    blocks, all by default; which are served does not change the values of any.  seed, name: of all
    orders.  key: identifies the model's weights beyond its name (revision, dtype).  limits: of
    `sinks`; what stands in the stream for a sink is another token of its pool, drawn at random, so
    that positions in it are known before any residual is.

    One pool is in memory, and what `read` returned:

        (pool.tokens + context) x layers x d_model x 4 bytes, half in bfloat16  (`memory_bytes`)

    With the defaults, 12 layers of 768 dimensions take 9.7 GB.  Raises InputError when that is more
    than half of the memory of the pool's device, and for layers that are not there.
    """

    def __init__(
        self,
        model: LanguageModel,
        windows: TokenWindows,
        layers: Sequence[int] | None = None,
        *,
        seed: int,
        name: str = "",
        key: str = "",
        pool: Pool = Pool(),
        limits: Limits | None = None,
    ) -> None:
        self.model, self.windows, self.seed, self.name = model, windows, seed, name
        self.pool, self.device = pool, torch.device(pool.device)
        self.layer_numbers = list(range(model.n_layers) if layers is None else layers)
        self._check_layers()
        self._kept = windows.mask.sum(axis=1)
        self.n_tokens = int(self._kept.sum())
        """Different tokens of the text, special ones left out."""
        if self.n_tokens < 2:
            requirement = "two tokens at least are needed"
            raise InputError("windows", self.n_tokens, requirement, "Use a longer corpus.")
        self.n_pools = -(-self.n_tokens // pool.tokens)
        """Pools of an epoch, of equal size but for the windows that their borders cut."""
        self._check_memory()
        self._limits = dict(limits or {})
        dropped = f" without norms over {sorted(self._limits.items())}" if limits else ""
        self._key = f"{model.name} {key} {_weights_digest(model)}{dropped}"
        # of the passes: training lowers the number where it reads
        self._threads = torch.get_num_threads()
        self._rows: list[torch.Tensor] = []
        self._at_hand: tuple[int, int] | None = None
        """Epoch and number of the pool in `_rows`."""
        self._order: torch.Tensor = torch.empty(0, dtype=torch.int64)
        self._epoch: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def n_layers(self) -> int:
        return len(self.layer_numbers)

    @property
    def d_model(self) -> int:
        return self.model.d_model

    @property
    def memory_bytes(self) -> int:
        """Of the pool."""
        return self._most_rows * self.n_layers * self.d_model * self.pool.dtype.itemsize

    @property
    def fingerprint(self) -> str:
        facts = f"{self.name} {self.seed} {self.pool.tokens} {self.pool.dtype}"
        return sha256_bytes("streamed residuals", facts, self._key, self.windows.hash)

    def read(self, start: int, n_tokens: int) -> list[Activations]:
        """Tokens start to start + n_tokens of the stream: a copy, (n_tokens, d_model) per layer.

        The pools they lie in are computed one after the other, the last one read excepted, which is
        at hand.
        """
        parts: list[list[torch.Tensor]] = []
        while n_tokens > 0:
            epoch, offset = divmod(start, self.n_tokens)
            starts = self._cut(epoch)[1]
            pool = int(np.searchsorted(starts, offset, side="right")) - 1
            first = offset - int(starts[pool])
            n = min(n_tokens, int(starts[pool + 1]) - offset)
            parts.append(self._take(epoch, pool, slice(first, first + n)))
            start, n_tokens = start + n, n_tokens - n
        if len(parts) == 1:
            return parts[0]
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def sample(self, n_tokens: int) -> list[Activations]:
        """The first tokens of the first pool of the first epoch, at most all of them."""
        return self._take(0, 0, slice(0, n_tokens))

    def _take(self, epoch: int, pool: int, places: slice) -> list[torch.Tensor]:
        """Tokens of a pool, by their places in its order."""
        if self._at_hand != (epoch, pool):
            self._fill(epoch, pool)
        index = self._order[places]
        return [rows.index_select(0, index) for rows in self._rows]

    def _fill(self, epoch: int, pool: int) -> None:
        windows, starts, borders = self._cut(epoch)
        part = self.windows[windows[borders[pool] : borders[pool + 1]]]
        self._at_hand = None  # until the rows are whole
        if not self._rows:
            shape = (self._most_rows, self.d_model)
            options = {"dtype": self.pool.dtype, "device": self.device}
            self._rows = [torch.empty(shape, **options) for _ in self.layer_numbers]
        with library_threads(self._threads, "torch"):
            fill_residuals(self.model, part, self.layer_numbers, self._rows)
        n = int(starts[pool + 1] - starts[pool])
        order = generator(self.seed, self.name, "pool", epoch, pool).permutation(n)
        if self._limits:
            self._replace_sinks(order, (epoch, pool))
        self._order = torch.from_numpy(order).to(self.device)
        self._at_hand = (epoch, pool)

    def _replace_sinks(self, order: np.ndarray, place: tuple[int, int]) -> None:
        """Put tokens of the pool that are no sinks, drawn at random, where the sinks are."""
        rows = dict(zip(self.layer_numbers, self._rows, strict=True))
        of_pool = {layer: rows[layer][: len(order)] for layer in self._limits}
        is_sink = any_of(above_limits(of_pool, self._limits)).cpu().numpy()
        others, at = np.flatnonzero(~is_sink), np.flatnonzero(is_sink[order])
        if not len(others):
            requirement = "each pool must hold tokens that are no sinks"
            raise InputError("pool_tokens", self.pool.tokens, requirement, "Give more.")
        draw = generator(self.seed, self.name, "sinks", *place)
        order[at] = draw.choice(others, len(at))

    def _cut(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of an epoch: its windows in order; where pools begin and end, in kept tokens and windows.

        A window belongs to the pool in which its first kept token falls when the epoch is cut
        evenly.
        """
        if self._epoch is None or self._epoch[0] != epoch:
            order = generator(self.seed, self.name, "windows", epoch).permutation(len(self.windows))
            before = np.cumsum(self._kept[order]) - self._kept[order]
            pool_of = np.minimum(before * self.n_pools // self.n_tokens, self.n_pools - 1)
            borders = np.searchsorted(pool_of, np.arange(self.n_pools + 1))
            starts = np.append(before, self.n_tokens)[borders]
            self._epoch = (epoch, order, starts, borders)
        return self._epoch[1:]

    @property
    def _most_rows(self) -> int:
        return -(-self.n_tokens // self.n_pools) + self.windows.context

    def _check_layers(self) -> None:
        there = range(self.model.n_layers)
        if not self.layer_numbers or not set(self.layer_numbers) <= set(there):
            requirement = f"{self.model.name} has 0 to {there[-1]}"
            raise InputError("layers", self.layer_numbers, requirement, "Choose of those.")

    def _check_memory(self) -> None:
        """Refuse a pool that the device cannot hold beside what else is needed."""
        there = device_memory(self.device)
        if self.memory_bytes > MEMORY_SHARE * there:
            fitting = int(MEMORY_SHARE * there / self.memory_bytes * self.pool.tokens)
            takes = f"the pool would take {self.memory_bytes / 2**30:.1f} GiB"
            half = f"more than half of the {there / 2**30:.1f} GiB of {self.device.type}"
            less = "bfloat16 instead of float32, or fewer layers at a time"
            remedy = f"Give {fitting} or fewer, {less}."
            raise InputError("pool_tokens", self.pool.tokens, f"{takes}, {half}", remedy)


def device_memory(device: torch.device) -> int:
    """Bytes of memory of a device, those in use included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return int(machine()["memory_bytes"])


def _weights_digest(model: LanguageModel) -> str:
    """SHA-256 of names, shapes and some 16 values of every weight: models of one name differ.

    And of the token that windows begin with.
    """
    parts: list[bytes | str] = [] if model.bos is None else [f"after {model.bos}"]
    for name, weight in model.hf.named_parameters():
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 16)].float().cpu().numpy()
        parts += [f"{name} {tuple(weight.shape)} {weight.dtype}", some.tobytes()]
    return sha256_bytes(*parts)
