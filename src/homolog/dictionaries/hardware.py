"""What the processor is used for: bfloat16 products, and threads that do not disturb."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal

import torch

from homolog.threads import single_threaded

Precision = Literal["auto", "float32", "bfloat16"]


def has_native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself (AVX512-BF16, AMX); elsewhere it is slower."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in probes)


def product_precision(
    precision: Precision, device: torch.device | str = "cpu"
) -> Literal["float32", "bfloat16"]:
    """The precision that "auto" stands for: bfloat16 where the device has it natively."""
    if precision != "auto":
        return precision
    on_cuda = torch.device(device).type == "cuda"
    native = torch.cuda.is_bf16_supported() if on_cuda else has_native_bfloat16()
    return "bfloat16" if native else "float32"


class Threads:
    """Threads over pieces of work, each with single-threaded linear algebra.

    A single one is the calling thread.  workers: how many, all cores by default.
    """

    def __init__(self, workers: int | None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))

    def __enter__(self) -> Threads:
        self._given_back = ExitStack()
        self.pool = self._given_back.enter_context(single_threaded(self.workers))
        return self

    def run(self, work: Callable[[int], None], pieces: Sequence[int]) -> None:
        """work(piece) for every piece; the first error goes on."""
        if self.workers == 1:
            for piece in pieces:
                work(piece)
        else:
            list(self.pool.map(work, pieces))

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        self._given_back.close()
