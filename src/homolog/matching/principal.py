"""CKA and SVCCA of streams held in memory: a layer is turned once, then pairs are small products.

Each centred stream X (tokens, d) is turned onto its principal directions, X V = Z with Z'Z the
diagonal matrix of the eigenvalues l_1 >= l_2 >= ... of X'X, and the leading r columns are kept.
Each pair of layers then takes one product,

    C     = Z_x' Z_y                                                 (r_x, r_y)
    CKA   = |C|^2 / (|l_x| |l_y|)                                    norms of all d eigenvalues
    SVCCA = mean singular value of diag(l_x)^-1/2 C diag(l_y)^-1/2   over the directions of 99 %

which are the numbers of `matching.spaces`, by n r_x r_y multiplications in the place of n d_x d_y.

    r = the least that holds the directions of SVCCA, and all of |l|^2 but `TAIL`^2 of it

SVCCA loses nothing.  CKA is never too high, and too low by at most TAIL_x + TAIL_y: with
XX' = K + E and YY' = L + F, where K and L are kept, all of them positive semidefinite,

    0 <= <K + E, L + F> - <K, L> = <E, L + F> + <K, F> <= (TAIL_x + TAIL_y) |K + E| |L + F|.

That much is lost only where the tail of the one is the head of the other; where tails meet each
other, it is TAIL_x TAIL_y, a millionth.  Products are float32, their sums over blocks of tokens are
float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from homolog.errors import InputError
from homolog.matching.spaces import (
    Matrix,
    SpaceSimilarity,
    check_rows,
    mean_correlation,
    n_kept,
)
from homolog.threads import single_threaded

TAIL = 0.001  # norm of the eigenvalues that are left out, as a share of that of all
BLOCK = 8192  # tokens of a product


@dataclass(frozen=True)
class PrincipalScores:
    """A stream on its leading principal directions.

    scores: float32 (tokens, r), centred; the squared length of column i is spectrum[i].  spectrum:
    float64 (d,), eigenvalues of the scatter matrix, descending; of the leading r alone where so
    many were asked for.  kept: of the r the leading ones that explain 99 % of the variance, or all.
    """

    scores: Float[torch.Tensor, "token r"]
    spectrum: Float[torch.Tensor, " d"]
    kept: int

    @property
    def scale(self) -> Float[torch.Tensor, " kept"]:
        """What the kept scores are multiplied by to be orthonormal, float64."""
        return self.spectrum[: self.kept].rsqrt()

    @property
    def norm(self) -> float:
        """|X'X|, of which |XX'| is the same."""
        return float(torch.linalg.vector_norm(self.spectrum))


def principal_scores(x: Matrix, most: int | None = None) -> PrincipalScores:
    """Turn a stream (tokens, d_model), of any float dtype, onto its principal directions.

    most: directions at most; what lies beyond them is then left out of every number.  Computed
    where the stream lies.  Raises InputError for NaN, infinity and another shape.
    """
    check_rows("x", x, None, None)
    x = torch.as_tensor(x).detach()
    x = x if x.dtype == torch.float64 else x.float()
    parts, width = x.split(BLOCK), x.shape[1]
    mean = torch.zeros(width, dtype=torch.float64, device=x.device)
    if len(x):  # around the first row, so that constants are not rounded
        mean += x[0]
        for part in parts:
            mean += (part - x[0]).sum(0, dtype=torch.float64) / len(x)
    middle = mean.to(x.dtype)
    beside = mean - middle  # what rounding left of the mean
    scatter = -len(x) * torch.outer(beside, beside)
    for part in parts:
        centred = (part - middle).float()
        scatter += centred.T @ centred
    values, vectors = torch.linalg.eigh(scatter)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    kept = n_kept(values)
    beyond = values.square().flip(0).cumsum(0).flip(0)
    r = max(kept, int((beyond > TAIL**2 * beyond[0]).sum()))
    if most is not None:
        r, values = min(r, most), values[:most]
    turn = vectors[:, :r].float()
    scores = torch.empty(len(x), r, device=x.device)
    for part, into in zip(parts, scores.split(BLOCK), strict=True):
        torch.mm((part - middle).float(), turn, out=into)
    scores -= (beside @ vectors[:, :r]).float()
    return PrincipalScores(scores, values, min(kept, r))


def turned(
    streams: list[torch.Tensor],
    *,
    most: int | None = None,
    device: torch.device | None = None,
    threads: int | None = None,
) -> list[PrincipalScores]:
    """`principal_scores` of each stream, on a device, by default where it lies.

    The list is emptied meanwhile, so that no stream is held beside its scores for long.  Each is
    one thread's work, so that nothing depends on the number of threads.
    """

    def turn(place: int) -> PrincipalScores:
        stream, streams[place] = streams[place], streams[place][:0].clone()
        return principal_scores(stream.to(device), most)

    with single_threaded(threads) as pool:
        scores = list(pool.map(turn, range(len(streams))))
    streams.clear()
    return scores


def cross(x: PrincipalScores, y: PrincipalScores) -> Float[torch.Tensor, "r_x r_y"]:
    """Z_x' Z_y, float64."""
    total = torch.zeros(x.scores.shape[1], y.scores.shape[1], dtype=torch.float64)
    total = total.to(x.scores.device)
    for one, other in zip(x.scores.split(BLOCK), y.scores.split(BLOCK), strict=True):
        total += one.T @ other
    return total


def similarity(
    a: Sequence[PrincipalScores], b: Sequence[PrincipalScores], *, threads: int | None = None
) -> SpaceSimilarity:
    """CKA and SVCCA of each layer of A with each of B, over the same tokens in the same order.

    Raises InputError where the numbers of tokens differ.
    """
    sizes = [len(layer.scores) for layer in (*a, *b)]
    if len(set(sizes)) > 1:
        requirement = "row t of every stream must be the same token"
        raise InputError("tokens of each layer", sizes, requirement, "Give the same tokens to all.")

    def pair(ij: tuple[int, int]) -> tuple[float, float]:
        x, y = a[ij[0]], b[ij[1]]
        product = cross(x, y)
        square = float(torch.linalg.vector_norm(product)) ** 2
        whitened = x.scale[:, None] * product[: x.kept, : y.kept] * y.scale
        return square, mean_correlation(whitened.cpu(), sizes[0])

    with single_threaded(threads) as pool:
        found = list(pool.map(pair, [(i, j) for i in range(len(a)) for j in range(len(b))]))
    spectra = [layer.spectrum for layer in (*a, *b)]
    return SpaceSimilarity.of(
        np.array(found).reshape(len(a), len(b), 2),
        np.array([layer.norm for layer in (*a, *b)]),
        np.array([float(values.sum()) for values in spectra]),
        np.array([layer.kept for layer in (*a, *b)]),
        sizes[0],
    )
