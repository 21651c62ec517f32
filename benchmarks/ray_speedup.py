"""Matching on a local Ray: two workers of one thread against one, and against this process alone.

    python benchmarks/ray_speedup.py --repeats 3

Every task is one pair of layers as a run has it: it reads the features of both layers from disk and
checks their checksums, prepares them, finds the best partners both ways and writes them to a file.
Each side has an untimed round before its timed one, for imports and compiled code.  Prints the
seconds of each side, and the median over the repeats of their ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse

from homolog.engine import Task, open_engine
from homolog.features import SparseFeatures, load_features
from homolog.matching import max_pearson
from homolog.record.atomic import atomic_path

BUSY = 0.7  # load average above which the ratio says little


def match(a: Path, b: Path, out: Path) -> float:
    """Seconds of one layer pair, from files to file."""
    start = time.perf_counter()
    best = max_pearson(load_features(a).matrix, load_features(b).matrix, k=2, threads=1)
    with atomic_path(out) as partial, open(partial, "wb") as file:
        for side in (best.a_to_b, best.b_to_a):
            np.save(file, side.r)
            np.save(file, side.index)
    return time.perf_counter() - start


def write_layer(folder: Path, seed: int, tokens: int, features: int, active: int) -> Path:
    """Random features of one layer, the frequency of feature i falling as i^(-1/2).

    About `active` of them are active on each token.
    """
    generator = np.random.default_rng(seed)
    column = (features * generator.random((tokens, active)) ** 2).astype(np.int32)
    value = generator.exponential(size=column.size).astype(np.float32)
    row = np.arange(0, column.size + 1, active)
    matrix = scipy.sparse.csr_array((value, column.ravel(), row), shape=(tokens, features))
    return SparseFeatures(matrix, "stream", np.zeros(tokens, np.int32), f"layer-{seed}", seed).save(
        folder / str(seed)
    )


def seconds(tasks: list[Task], ray: str | None, workers: int | None) -> tuple[float, float]:
    """Seconds of all tasks, and the median of their own, after a round that is not timed."""
    with open_engine(ray, threads=1, workers=workers) as engine:
        engine.map(tasks[:4])
        start = time.perf_counter()
        own = engine.map(tasks)
        return time.perf_counter() - start, statistics.median(own)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=4096, help="of a layer")
    parser.add_argument("--active", type=int, default=50, help="features drawn for a token")
    parser.add_argument(
        "--layers",
        type=int,
        nargs=2,
        default=(4, 6),
        help="of both models; their product is the tasks",
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"This machine is busy (load {load:.1f}): measure again when it is idle.")
    sides = {
        "in process": (None, None),
        "Ray, one worker": ("local", 1),
        "Ray, two workers": ("local", 2),
    }
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder, (n_a, n_b) = Path(name), options.layers
        size = (options.tokens, options.features, options.active)
        layers = [write_layer(folder, seed, *size) for seed in range(n_a + n_b)]
        tasks = [
            Task(
                match,
                {"a": a, "b": b, "out": folder / f"{a.name}-{b.name}.npy"},
                f"layers {a.name} and {b.name}",
            )
            for a in layers[:n_a]
            for b in layers[n_a:]
        ]
        print(
            f"{len(tasks)} tasks, {options.tokens} tokens, {options.features} features, "
            f"{options.active} active"
        )
        for _ in range(options.repeats):
            took = {side: seconds(tasks, *where) for side, where in sides.items()}
            ratios.append(took["Ray, one worker"][0] / took["Ray, two workers"][0])
            print(
                "   ".join(
                    f"{side}: {all_of:.1f} s ({own:.2f} s a task)"
                    for side, (all_of, own) in took.items()
                )
            )
    print(
        f"one worker / two workers: median {statistics.median(ratios):.2f}, "
        + ", ".join(f"{r:.2f}" for r in ratios)
    )


if __name__ == "__main__":
    main()
