"""Where training reads activations: a shuffled, endless stream of tokens, all layers of a token together.

Positions in the stream are addressed, so a resumed training reads on exactly where it stopped.  A source may
hold all activations (`ResidualArrays`) or run a model as it goes; training only uses the protocol.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from homolog.axes import Activations
from homolog.dictionaries.seeds import generator
from homolog.errors import InputError


@runtime_checkable
class ActivationSource(Protocol):
    """Shuffled activations of all layers. Special tokens are left out by the source."""

    @property
    def n_layers(self) -> int: ...

    @property
    def d_model(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """Changes when the stream does: a checkpoint is only continued on the same stream."""
        ...

    def read(self, start: int, n_tokens: int) -> Sequence[Activations]:
        """Tokens start to start + n_tokens of the stream: one (n_tokens, d_model) tensor a layer, any float
        dtype.

        Indexing the result may do the work (it is called from several threads, each layer once).
        """
        ...

    def sample(self, n_tokens: int) -> Sequence[Activations]:
        """A fixed random sample of tokens, to estimate mean and scale; at most n_tokens."""
        ...


class _Gather(Sequence[torch.Tensor]):
    """Rows of each layer, gathered when a layer is asked for."""

    def __init__(self, layers: Sequence[torch.Tensor], rows: torch.Tensor) -> None:
        self.layers, self.rows = layers, rows

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer):  # type: ignore[override]
        return self.layers[layer].index_select(0, self.rows)


class ResidualArrays:
    """Activations held in memory or memory-mapped: (layer, token, d_model), any float dtype torch knows.

    The tokens are read in a new random order every epoch, over all documents; the order follows from `seed`.
    `keep` (token, bool) marks the tokens to use (False at special tokens).
    """

    def __init__(
        self,
        layers: torch.Tensor | np.ndarray | Sequence[torch.Tensor | np.ndarray],
        *,
        seed: int,
        keep: np.ndarray | torch.Tensor | None = None,
        name: str = "",
    ) -> None:
        self.layers = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in layers]
        shapes = {tuple(a.shape) for a in self.layers}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise InputError("layers", sorted(shapes), "all must be (token, d_model) alike", "Check the capture.")
        n_tokens = self.layers[0].shape[0]
        kept = np.ones(n_tokens, bool) if keep is None else np.asarray(keep, bool).reshape(-1)
        if kept.size != n_tokens:
            raise InputError("keep", kept.size, f"it must mark {n_tokens} tokens", "Flatten the window mask.")
        self.rows = np.flatnonzero(kept)
        if self.rows.size < 2:
            raise InputError("keep", self.rows.size, "two tokens at least are needed", "Use a longer corpus.")
        self.seed, self.name = seed, name
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def d_model(self) -> int:
        return self.layers[0].shape[1]

    @property
    def n_tokens(self) -> int:
        """Different tokens held."""
        return self.rows.size

    @property
    def fingerprint(self) -> str:
        probe = self.rows[:: max(1, self.rows.size // 64)]
        digest = hashlib.sha256(f"{self.name} {self.seed} {self.rows.size}".encode())
        for layer in self.layers:
            digest.update(layer[torch.from_numpy(probe)].float().numpy().tobytes())
        return digest.hexdigest()

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, generator(self.seed, self.name, "epoch", epoch).permutation(self.rows))
        return self._order[1]

    def read(self, start: int, n_tokens: int) -> Sequence[torch.Tensor]:
        parts: list[np.ndarray] = []
        while n_tokens > 0:
            epoch, offset = divmod(start, self.rows.size)
            part = self._epoch(epoch)[offset : offset + n_tokens]
            parts.append(part)
            start, n_tokens = start + part.size, n_tokens - part.size
        return _Gather(self.layers, torch.from_numpy(np.concatenate(parts)))

    def sample(self, n_tokens: int) -> Sequence[torch.Tensor]:
        order = generator(self.seed, self.name, "sample").permutation(self.rows)[:n_tokens]
        return _Gather(self.layers, torch.from_numpy(np.sort(order)))
