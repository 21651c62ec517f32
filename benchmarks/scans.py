"""The scans of Mamba-2 and of the gated delta rule on the CPU, ours against Hugging Face's own.

    python benchmarks/scans.py [--repeats N] [--length L]

Theirs are the functions that a user runs where no CUDA kernels are installed: `mamba2_chunk_scan`
of the modelling file of Mamba-2 and `torch_chunk_gated_delta_rule` of that of Qwen3-Next, both in
float32 and made of matrix products over chunks of positions.  Both sides get the same inputs and
run in one process.  Rounds alternate; every ratio is the median over rounds of two times of the
same round, so that what else the machine does falls on both.  Memory is the peak during one call,
its results included, beyond what was there before.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from measuring import peak_beyond, timed
from torch import Tensor
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

from homolog.models.scan import delta_scan, linear_scan


@dataclass(frozen=True)
class Case:
    """One scan at one size: what both sides take, and what each of them calls."""

    name: str
    inputs: list[Tensor]
    ours: Callable[..., Tensor]
    theirs: Callable[..., Tensor]


def mamba2(batch: int, length: int) -> Case:
    """A layer of mamba2-130m: 24 heads of 64 channels, a state of 128, keys shared by all heads."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, length, 24, 64, generator=g)
    dt = torch.nn.functional.softplus(torch.randn(batch, length, 24, generator=g) - 3)
    A = -torch.arange(1.0, 25.0)
    B, C = (torch.randn(batch, length, 1, 128, generator=g) for _ in range(2))

    def ours(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return linear_scan(C, B, x * dt[..., None], (dt * A)[..., None, None]).y

    def theirs(*inputs: Tensor) -> Tensor:
        scanned: Any = mamba2_chunk_scan(*inputs, chunk_size=256)
        return scanned

    return Case(f"mamba2-130m, batch {batch}", [x, dt, A, B, C], ours, theirs)


def qwen3_next(batch: int, length: int) -> Case:
    """A layer like those of Qwen3-Next: 16 heads of 128 key and 128 value channels."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, length, 16, 128, generator=g) for _ in range(3))
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    log_decay = -torch.nn.functional.softplus(torch.randn(batch, length, 16, generator=g) - 2)
    beta = torch.sigmoid(torch.randn(batch, length, 16, generator=g))

    def ours(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
        return delta_scan(q / 128**0.5, k, v, beta, log_decay[..., None]).y  # theirs scale q too

    def theirs(*inputs: Tensor) -> Tensor:
        return torch_chunk_gated_delta_rule(*inputs)[0]

    return Case(f"Qwen3-Next-like, batch {batch}", [q, k, v, log_decay, beta], ours, theirs)


def backward(run: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward to all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    return lambda: torch.autograd.grad(run(*leaves).square().sum(), leaves)


def measure(case: Case, repeats: int) -> None:
    """Print milliseconds, ratios, memory and the difference of results."""
    with torch.no_grad():
        y, expected = case.ours(*case.inputs), case.theirs(*case.inputs)
    error = float((y - expected).abs().max() / expected.abs().max())
    print(f"{case.name}, {torch.get_num_threads()} threads: relative difference {error:.1e}")
    sides = (case.ours, case.theirs)
    for what, calls in (
        ("forward", [lambda run=run: run(*case.inputs) for run in sides]),
        ("forward and backward", [backward(run, case.inputs) for run in sides]),
    ):
        with torch.set_grad_enabled(what != "forward"):
            ours_peak, theirs_peak = (peak_beyond(call)[0] for call in calls)
            rounds = [[timed(call)[0] for call in calls] for _ in range(repeats)]
        ours, theirs = (statistics.median(times) for times in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in rounds)
        print(
            f"    {what}: ours {1e3 * ours:.0f} ms, {ours_peak / 2**20:.0f} MiB; Hugging Face "
            f"{1e3 * theirs:.0f} ms, {theirs_peak / 2**20:.0f} MiB; ratio {ratio:.1f}, "
            f"memory {theirs_peak / ours_peak:.1f}"
        )


def main() -> None:
    """Measure both scans at batch 1 and 8."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--length", type=int, default=1024)
    options = parser.parse_args()
    for make in (mamba2, qwen3_next):
        for batch in (1, 8):
            measure(make(batch, options.length), options.repeats)


if __name__ == "__main__":
    main()
