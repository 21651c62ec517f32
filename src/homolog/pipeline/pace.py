"""How fast this machine is, for the costs of a run (`costs`): products, and what they go with."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from homolog.dictionaries.hardware import product_precision
from homolog.record.process import machine
from homolog.record.recipe import Recipe

SCAN = 0.3e-9  # a state of a recurrent block, at a token
GPU_SCAN = 0.01e-9  # the same where memory alone bounds it: 12 bytes at 1.2 TB/s, not measured
THREADS = 2
GPU = 150e12  # products a second of a GPU of 80 GB in bfloat16, where none is there to measure


@dataclass(frozen=True)
class Pace:
    """How fast this machine is: products a second in the models' precision and in training's.

    threads: of a task, as shares of which the constants above are counted.
    """

    products: float = 40e9
    training: float = 200e9
    threads: int = THREADS
    gpu: bool = False

    @property
    def dictionaries(self) -> tuple[float, float]:
        """Dense products in training, for one in encoding, and what scattered work counts: on a GPU
        all is dense, and nothing scattered is left.
        """
        return (6.0, 0.0) if self.gpu else (1.0, self.shared)

    @property
    def scan(self) -> float:
        """Seconds of a state of a recurrent block, at a token."""
        return GPU_SCAN if self.gpu else SCAN * self.shared

    @property
    def shared(self) -> float:
        """What the constants are multiplied by."""
        return THREADS / self.threads


def measured_pace(recipe: Recipe, threads: int | None = None) -> Pace:
    """The pace of the recipe's device, from a fraction of a second of products."""
    device = torch.device(recipe.run.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        return Pace(GPU, GPU, THREADS, gpu=True)
    n_threads = threads or int(machine()["n_cpus"])
    dtypes = (recipe.run.dtype, product_precision(recipe.sae.precision, device))
    rates = [_products(device, getattr(torch, dtype)) for dtype in dtypes]
    share = min(1.0, n_threads / int(machine()["n_cpus"]))
    return Pace(rates[0] * share, rates[1] * share, n_threads, device.type == "cuda")


def _products(device: torch.device, dtype: torch.dtype, seconds: float = 0.15) -> float:
    """Operations a second of (1024, 768) by (768, 3072), two for each multiplication."""
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((1024, 768), (768, 3072)))
    best, begun = math.inf, time.perf_counter()
    while best == math.inf or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        float((a @ b)[0, 0])  # waits for a device
        best = min(best, time.perf_counter() - start)
    return 2 * 1024 * 768 * 3072 / best
