"""Chunks of a stream of activations on a device, the next one read while one is worked on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from homolog.dictionaries.sources import ActivationSource

_Place = tuple[int, int, int]
"""First token, tokens, and layer as the source counts them."""


class Ahead:
    """Reads `source` in order, layer after layer, chunk after chunk, to `end` tokens.

    A thread reads, one layer of a chunk ahead.  What comes from the CPU goes to CUDA through pinned
    memory and a stream of its own, so that it does not wait for what the device works on.
    """

    def __init__(self, source: ActivationSource, device: torch.device, end: int) -> None:
        self.source, self.device, self.end = source, device, end
        self.pool = ThreadPoolExecutor(1)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.chunk: tuple[tuple[int, int], Sequence[Tensor]] | None = None
        self.coming: tuple[_Place, Future] | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def read(self, start: int, n_tokens: int, layer: int) -> Tensor:
        """Tokens start to start + n_tokens of a layer, on the device, as precise as the source."""
        place, coming = (start, n_tokens, layer), self.coming
        if coming is not None and coming[0] == place:
            copying = coming[1]
        else:
            copying = self.pool.submit(self._copy, *place)
        if layer + 1 < self.source.n_layers:
            following = (start, n_tokens, layer + 1)
        else:
            following = (start + n_tokens, min(n_tokens, self.end - start - n_tokens), 0)
        self.coming = None
        if following[1] > 0:
            self.coming = following, self.pool.submit(self._copy, *following)
        there, copied = copying.result()
        if copied is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(copied)
            there.record_stream(current)
        return there

    def _copy(self, start: int, n_tokens: int, layer: int) -> tuple[Tensor, Any]:
        """The tokens there, and the event after which they are."""
        if self.chunk is None or self.chunk[0] != (start, n_tokens):
            self.chunk = None  # freed before the next is read
            self.chunk = (start, n_tokens), self.source.read(start, n_tokens)
        raw = self.chunk[1][layer]
        if self.stream is None or raw.device.type != "cpu":
            return raw.to(self.device), None
        with torch.cuda.stream(self.stream):
            there = raw.pin_memory().to(self.device, non_blocking=True)
            return there, self.stream.record_event()
