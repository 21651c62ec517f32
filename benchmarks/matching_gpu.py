"""Pearson matching on a CUDA device at the paper's scale, against the CPU engine.

    python benchmarks/matching_gpu.py --tokens 1000000 --features 24576 --active 50

Features of `skewed_pair`: every second feature of B is a noisy copy of one of A.  The CPU engine
correlates a sample of features of each side, frequent to rare, with all of the other side: the
largest difference of r and the share of equal partners.  `--tune` tries other sizes of programs.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from skewed import skewed_pair

from homolog.matching import Columns, max_pearson, prepare

PAIRS = 12 * 24  # layers of Pythia-160m x layers of Mamba-130m
TUNED = [(16, 4096, 1), (16, 2048, 1), (16, 8192, 1), (8, 2048, 2), (8, 4096, 1), (4, 1024, 4)]


def seconds(repeats: int, function: Callable[[], Any]) -> float:
    """The fastest of a few runs; results come back to the processor, so nothing is left running."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(
    found: tuple, a: Any, b: Any, left: Columns, right: Columns, k: int, sample: int
) -> tuple[float, float]:
    """(largest difference of r, share of equal partners) of a sample of features of both sides."""
    differences, equal = [], []
    for (r, index), own, matrix, other in ((found[0], left, a, right), (found[1], right, b, left)):
        places = np.unique(np.geomspace(1, len(own.order), sample).astype(int) - 1)
        chosen = own.order[places]
        best = max_pearson(matrix[:, chosen], other, k).a_to_b
        differences.append(np.nanmax(np.abs(best.r - r[chosen])))
        equal.append((best.index == index[chosen]).mean())
    return max(differences), min(equal)


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, kind, default, meaning in (
        ("tokens", int, 1_000_000, "tokens of the stream"),
        ("features", int, 24_576, "features of each side"),
        ("active", float, 50, "mean active features a token"),
        ("k", int, 2, "partners of each feature"),
        ("repeats", int, 5, "timed runs; the fastest counts"),
        ("sample", int, 48, "features of each side for the CPU engine"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=meaning)
    parser.add_argument(
        "--tune", action="store_true", help="try other numbers of warps, tiles and programs"
    )
    return parser.parse_args()


def main() -> None:
    options = options_of()
    if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        print("there is no CUDA device with Triton here: nothing to measure")
        sys.exit(0)
    from homolog.matching import gpu

    properties = torch.cuda.get_device_properties(0)
    cache = properties.L2_cache_size >> 20
    print(
        f"{properties.name}: {properties.multi_processor_count} multiprocessors, {cache} MiB "
        "second-level cache"
    )
    start = time.perf_counter()
    a, b = skewed_pair(options.tokens, options.features, options.active)
    made = time.perf_counter()
    left, right = prepare(a), prepare(b)
    prepared = time.perf_counter()
    work = float(np.sum(np.diff(a.indptr).astype(np.float64) * np.diff(b.indptr)))
    print(
        f"{options.tokens} tokens, {a.shape[1]} x {b.shape[1]} features, {a.nnz / a.shape[0]:.1f} "
        "active a token of A,"
    )
    print(
        f"{b.nnz / b.shape[0]:.1f} of B; {left.n_dense} and {right.n_dense} dense columns; "
        f"{work:.3g} multiply-adds"
    )
    print(f"made in {made - start:.1f} s, prepared on the processor in {prepared - made:.1f} s")

    def pair(**changes: Any) -> tuple:
        return gpu.best_pairs(left, right, options.k, "cuda", **changes)

    start = time.perf_counter()
    found = pair()
    print(f"first pair, with compilation and copying      {time.perf_counter() - start:10.3f} s")
    gpu.kept.clear()
    print(f"a pair, with copying both sides               {seconds(1, pair):10.3f} s")
    own = seconds(options.repeats, pair)
    print(f"a pair                                        {own:10.4f} s")
    print(f"multiply-adds                                 {work / own / 1e9:10.1f} G/s")
    print(f"{PAIRS} pairs                                     {PAIRS * own:10.1f} s")
    print(
        "memory of the device                          "
        f"{torch.cuda.max_memory_allocated() / 2**30:10.1f} GiB at most"
    )
    start = time.perf_counter()
    difference, equal = compare(found, a, b, left, right, options.k, options.sample)
    share = 2 * options.sample / options.features
    print(
        f"CPU engine on a sample ({share:.1%} of both sides)  {time.perf_counter() - start:10.1f} s"
    )
    print(f"largest difference of r from it               {difference:10.1e}")
    print(f"equal partners                                {equal:10.4f}")
    if options.tune:
        tune(pair, found, options.repeats)


def tune(pair: Callable[..., tuple], found: tuple, repeats: int) -> None:
    """Print seconds a pair for other sizes; each must give the same bytes."""
    from homolog.matching import gpu

    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    print(f"{'warps':>8}{'tile':>8}{'programs a multiprocessor':>28}{'s a pair':>12}")
    for warps, tile, each in TUNED:
        gpu.WARPS, gpu.TILE = warps, tile
        sized = partial(pair, programs=each * multiprocessors)
        for new, old in zip(sized(), found, strict=True):
            assert all(x.tobytes() == y.tobytes() for x, y in zip(new, old, strict=True)), (
                warps,
                tile,
                each,
            )
        print(f"{warps:8}{tile:8}{each:28}{seconds(repeats, sized):12.4f}")


if __name__ == "__main__":
    main()
