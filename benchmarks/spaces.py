"""Similarity of whole layers and its null: ours beside each pair and permutation by definition.

    python benchmarks/spaces.py [--layers A B] [--tokens N] [--width D] [--permutations P]
                                [--slow PAIRS]

Streams have variances that fall as i^-1.5, so that 99 % of it lies in about half of the directions,
as in the middle blocks of pretrained models of 135 and 270 million parameters; each layer is the
one before it, turned on by a channel, so that neighbours are alike.  Ours: every stream turned onto
its principal directions, then all pairs (`matching.principal`), and `matching.space_null`.

By definition, in numpy and scipy: for a pair CKA from X'Y, X'X and Y'Y and SVCCA from the singular
vectors of both streams, in float64; for a permutation of a pair the same of the permuted rows, and
the nearest rows of both sides.  A few are run, and the time of one is multiplied by how many there
are ("computed").  Seconds are the processor's, of one thread: other jobs do not count.
"""

from __future__ import annotations

import argparse

import numpy as np
import scipy.linalg
import torch
from measuring import machine, worked

from homolog.matching.principal import similarity, turned
from homolog.matching.space_null import DIRECTIONS, NEIGHBOURS, ROWS, space_tests
from homolog.threads import limit_process

DOCUMENTS = 64


def streams(layers: tuple[int, int], tokens: int, width: int) -> list[list[torch.Tensor]]:
    """Residuals (tokens, width) of the layers of two models that share some of their causes."""
    generator = torch.Generator().manual_seed(0)
    first, other = torch.randn(2, tokens, width, generator=generator)
    scale = torch.arange(1, width + 1) ** -0.75
    bases = first, 0.5 * first + other
    return [
        [base.roll(layer, 1) * scale for layer in range(n)]
        for base, n in zip(bases, layers, strict=True)
    ]


def by_definition(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """CKA and SVCCA of two streams."""
    x, y = (np.float64(z) - z.mean(0, dtype=np.float64) for z in (x, y))
    norms = [np.linalg.norm(z.T @ z) for z in (x, y)]
    cka = np.linalg.norm(x.T @ y) ** 2 / (norms[0] * norms[1])
    kept = []
    for z in (x, y):
        left, length, _ = scipy.linalg.svd(z, full_matrices=False)
        share = np.cumsum(length**2) / np.sum(length**2)
        kept.append(left[:, : np.searchsorted(share, 0.99) + 1])
    return float(cka), float(scipy.linalg.svdvals(kept[0].T @ kept[1]).mean())


def neighbours_in_common(x: np.ndarray, y: np.ndarray) -> float:
    """Mutual k-NN of the rows of two streams, of other documents."""
    document = np.arange(len(x)) // (len(x) // DOCUMENTS)
    near = []
    for z in (x, y):
        unit = z - z.mean(0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        cosine = np.where(document[:, None] == document, -np.inf, unit @ unit.T)
        near.append(np.argsort(-cosine, axis=1)[:, :NEIGHBOURS])
    shared = [len(set(p) & set(q)) for p, q in zip(*near, strict=True)]
    return float(np.mean(shared)) / NEIGHBOURS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs=2, default=(12, 24))
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--permutations", type=int, default=199)
    parser.add_argument("--slow", type=int, default=1, help="pairs by definition")
    asked = parser.parse_args()
    limit_process(1)
    pairs = asked.layers[0] * asked.layers[1]
    print(f"{machine()}; one thread, seconds of the processor")
    a, b = streams(tuple(asked.layers), asked.tokens, asked.width)
    rows = torch.arange(ROWS).reshape(DOCUMENTS, -1) * (asked.tokens // ROWS)
    samples = [[x[rows] for x in side] for side in (a, b)]
    slow = [(x.numpy(), y.numpy()) for x, y in list(zip(a, b, strict=False))[: asked.slow]]

    turn, scores = worked(lambda: [turned(side, threads=1) for side in (a, b)])
    meet, found = worked(lambda: similarity(*scores, threads=1))
    kept = np.mean([layer.scores.shape[1] for side in scores for layer in side])
    theirs, exact = worked(lambda: [by_definition(x, y) for x, y in slow])
    print(f"{pairs} pairs of {asked.tokens:,} x {asked.width}, {kept:.0f} directions kept")
    print(f"  ours    {turn:.1f} s to turn {sum(asked.layers)} layers, {meet:.1f} s for the pairs")
    computed = theirs / len(slow) * pairs
    print(f"  theirs  {computed:.0f} s (computed), ratio {computed / (turn + meet):.0f}")
    apart = [
        np.abs(np.array([found.cka[i, i], found.svcca[i, i]]) - values)
        for i, values in enumerate(exact)
    ]
    cka, svcca = np.max(apart, 0)
    print(f"  largest difference: CKA {cka:.1e}, SVCCA {svcca:.1e}")

    null, tests = worked(
        lambda: space_tests(*samples, n_permutations=asked.permutations, seed=0, threads=1)
    )
    x, y = (side[0].flatten(0, 1).numpy() for side in samples)
    theirs, _ = worked(lambda: (by_definition(x, y), neighbours_in_common(x, y)))
    computed = theirs * pairs * (asked.permutations + 1)
    print(f"null of {asked.permutations} permutations, {ROWS} rows, {DIRECTIONS} directions")
    print(f"  ours    {null:.1f} s")
    print(f"  theirs  {computed:.0f} s (computed), ratio {computed / null:.0f}")
    called = {name: int((test.p_max <= 0.05).sum()) for name, test in tests.items()}
    print(f"  pairs beyond chance: {called}")


if __name__ == "__main__":
    main()
