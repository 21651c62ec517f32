"""Are two models' layers more alike than chance, the search for the most alike ones included?

A similarity T is taken for every pair of layers (i, j), over rows of D documents with the same
number of rows each, and again with the documents of B in B random orders pi_1 ... pi_B: row u of
document d of A then meets row u of document pi(d) of B.  Whole documents move, so what rows of one
document have in common, and what a place in a document makes of a row, stay in the null.  All D!
orders of equal documents are alike where the two models have nothing in common that comes from the
text, so the p-values are exact [Phipson 2010],

    p      = (1 + #{b: T_b >= T}) / (1 + B)                         for a pair of layers
    t      = (T - mean_b T_b) / sd_b T_b                            mean and sd with T among the T_b
    p_max  = (1 + #{b: max over all pairs of t_b >= t}) / (1 + B)   for a pair that was looked for

and p_max holds for all pairs together, whichever is picked [Westfall & Young 1993; the null of the
maximum over layers as in arXiv 2602.14486].  Each pair is measured in its own standard deviations,
lest a layer that a few long tokens dominate, which is alike to anything, hides all others.

    excess = (T - mean_b T_b) / (1 - mean_b T_b)      0 by chance, 1 where the two are the same

Three similarities, on the same rows (`ROWS` at most):

    cka      linear CKA, of the leading `DIRECTIONS` principal directions
    svcca    mean canonical correlation of those of them that explain 99 % of the variance
    mutual_knn   mean over rows of |N_A(t) & N_B(t)| / k: what the k nearest rows of other documents
                 have in common, by the cosine of residuals less their mean; k = `NEIGHBOURS`
                 [Huh 2024; Wolfram & Schein 2025]

On a permutation a pair costs the product of scores, 2 rows DIRECTIONS^2, the singular values of a
matrix of DIRECTIONS^2, and k rows look-ups; everything else is done once.

Phipson & Smyth, "Permutation P-values Should Never Be Zero", 2010.  Westfall & Young, "Resampling-
Based Multiple Testing", 1993.  "Revisiting the Platonic Representation Hypothesis: An Aristotelian
View", 2026, arXiv 2602.14486.  Huh et al., "The Platonic Representation Hypothesis", 2024, arXiv
2405.07987.  Wolfram & Schein, "Layers at Similar Depths Generate Similar Activations Across LLM
Architectures", 2025, arXiv 2504.08775.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from homolog.errors import InputError
from homolog.matching.principal import PrincipalScores, principal_scores
from homolog.matching.spaces import SAMPLES_A_DIRECTION
from homolog.threads import single_threaded

ROWS = 2048
DIRECTIONS = 32
NEIGHBOURS = 10
LEAST_DOCUMENTS = 6  # 720 orders
SHORT = 0.25  # share of the documents, the shortest, that are left out
MEASURES = ("cka", "svcca", "mutual_knn")
_BITS = np.uint8(1) << np.arange(8, dtype=np.uint8)
Sample = Float[torch.Tensor, "document row _"]


@dataclass(frozen=True)
class SpaceTest:
    """One similarity of all pairs of layers, and what chance gives; float64 (layers_a, layers_b).

    value: T.  null_mean, null_high: mean and 95 % quantile over the permutations.  excess, p,
    p_max: as in the module's first lines.  NaN where a layer is constant, and in svcca where there
    are too few rows for the directions.
    """

    value: Float[np.ndarray, "layers_a layers_b"]
    null_mean: Float[np.ndarray, "layers_a layers_b"]
    null_high: Float[np.ndarray, "layers_a layers_b"]
    excess: Float[np.ndarray, "layers_a layers_b"]
    p: Float[np.ndarray, "layers_a layers_b"]
    p_max: Float[np.ndarray, "layers_a layers_b"]

    @classmethod
    def of(
        cls,
        value: Float[np.ndarray, "layers_a layers_b"],
        null: Float[np.ndarray, "permutations layers_a layers_b"],
    ) -> SpaceTest:
        """Of the values, and of those of at least one permutation."""
        every = np.concatenate([value[None], null])
        mean, spread = null.mean(0), every.std(0)
        t = (every - every.mean(0)) / np.where(spread > 0, spread, np.nan)
        known = np.isfinite(t[0])
        highest = np.where(known, t, -np.inf).max((1, 2))[:, None, None]
        p_max = np.where(known, (highest >= t[0]).mean(0), np.nan)
        p = np.where(np.isnan(value), np.nan, (every >= value).mean(0))
        excess = (value - mean) / np.where(mean < 1, 1 - mean, np.nan)
        return cls(value, mean, np.quantile(null, 0.95, axis=0), excess, p, p_max)


def document_rows(
    document: Int[np.ndarray, " token"], n_rows: int = ROWS
) -> Int[np.ndarray, "document row"]:
    """Rows of as many documents as there are, but the shortest; as many of each, n_rows in all.

    document: of each token.  The places are the same in all of them, evenly spaced over what the
    shortest of those taken has.
    """
    _, number, size = np.unique(document, return_inverse=True, return_counts=True)
    if not len(size):
        return np.empty((0, 0), np.int64)
    least = int(np.quantile(size, SHORT, method="lower"))
    taken = np.flatnonzero(size >= least)[:n_rows]
    each = min(least, n_rows // len(taken))
    places = np.arange(each) * least // each
    stream = np.argsort(number, kind="stable")  # by document, in stream order
    start = np.cumsum(size) - size
    return stream[start[taken, None] + places]


def space_tests(
    a: Sequence[Sample],
    b: Sequence[Sample],
    *,
    n_permutations: int,
    seed: int,
    threads: int | None = None,
) -> dict[str, SpaceTest]:
    """Each of `MEASURES` for every layer of A with every layer of B.

    a, b: residuals (documents, rows, d_model) of each layer, of any float dtype; row u of document
    d is the same token in all.  Nothing depends on the number of threads.
    Raises InputError for fewer documents than `LEAST_DOCUMENTS`, other shapes, no permutation, NaN
    and infinity.
    """
    shapes = sorted({tuple(x.shape[:2]) for x in (*a, *b)})
    if len(shapes) != 1 or shapes[0][0] < LEAST_DOCUMENTS or not shapes[0][1]:
        requirement = f"all need the same rows of at least {LEAST_DOCUMENTS} documents"
        raise InputError("documents and rows", shapes, requirement, "Give more documents.")
    if n_permutations < 1:
        requirement = "a null needs one permutation at least"
        raise InputError("n_permutations", n_permutations, requirement, "Ask for 199.")
    n_documents, n_each = shapes[0]
    generator = np.random.default_rng(seed)
    orders = [np.arange(n_documents)]
    orders += [generator.permutation(n_documents) for _ in range(n_permutations)]
    flat_a, flat_b = ([x.flatten(0, 1) for x in side] for side in (a, b))
    with single_threaded(threads) as pool:
        scores = list(pool.map(lambda x: principal_scores(x, DIRECTIONS), (*flat_a, *flat_b)))
        near = list(pool.map(lambda x: neighbours(x, n_each), (*flat_a, *flat_b)))
        linear = _Linear(scores[: len(a)], scores[len(a) :])
        shared = _Shared(near[: len(a)], near[len(a) :])

        def measured(order: np.ndarray) -> list[np.ndarray]:
            rows = (order[:, None] * n_each + np.arange(n_each)).ravel()
            return [*linear.measured(rows), shared.measured(rows) + 0 * linear.norm]

        found = np.array(list(pool.map(measured, orders)))
    return {
        name: SpaceTest.of(found[0, place], found[1:, place]) for place, name in enumerate(MEASURES)
    }


def neighbours(x: Float[torch.Tensor, "row d_model"], n_each: int) -> Int[np.ndarray, "row k"]:
    """The `NEIGHBOURS` nearest rows of other documents of each row, int64 (rows, k).

    Nearest is what has the highest cosine, of residuals less their mean.  n_each: rows of each
    document, which stand together.
    """
    x = x.double()
    x = (x - x.mean(0)).float()
    unit = x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-30)
    cosine = unit @ unit.T
    document = torch.arange(len(x), device=x.device) // n_each
    cosine[document[:, None] == document] = -torch.inf
    return cosine.topk(min(NEIGHBOURS, len(x) - n_each)).indices.cpu().numpy()


class _Linear:
    """CKA and SVCCA of all pairs, from one product of the scores of all layers."""

    def __init__(self, a: Sequence[PrincipalScores], b: Sequence[PrincipalScores]) -> None:
        self.a, self.b = (torch.cat([_padded(layer) for layer in side], 1) for side in (a, b))
        norms = [np.array([layer.norm for layer in side]) for side in (a, b)]
        self.norm = np.outer(*norms)
        self.norm[self.norm == 0] = np.nan
        self.shape = (len(a), DIRECTIONS, len(b), DIRECTIONS)
        self.scale = [torch.stack([_scale(layer) for layer in side]) for side in (a, b)]
        kept = [np.array([layer.kept for layer in side]) for side in (a, b)]
        few = len(self.a) - 1 < SAMPLES_A_DIRECTION * np.add.outer(*kept)
        self.kept = np.where(few, np.nan, np.minimum.outer(*kept).astype(float))
        self.kept[self.kept == 0] = np.nan

    def measured(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """CKA and SVCCA (layers_a, layers_b), where row t of A meets rows[t] of B."""
        product = (self.a.T @ self.b[torch.from_numpy(rows)]).reshape(self.shape).transpose(1, 2)
        square = product.double().square().sum((2, 3)).cpu().numpy()
        whitened = product * self.scale[0][:, None, :, None] * self.scale[1][None, :, None, :]
        correlations = torch.linalg.svdvals(whitened).clamp(max=1).sum(2).double().cpu().numpy()
        return square / self.norm, correlations / self.kept


def _padded(layer: PrincipalScores) -> torch.Tensor:
    """Scores (rows, DIRECTIONS), zeros where there are fewer."""
    missing = DIRECTIONS - layer.scores.shape[1]
    return torch.nn.functional.pad(layer.scores, (0, missing))


def _scale(layer: PrincipalScores) -> torch.Tensor:
    """(DIRECTIONS,): what makes the scores of SVCCA orthonormal, and zeros for others."""
    return torch.nn.functional.pad(layer.scale.float(), (0, DIRECTIONS - layer.kept))


class _Shared:
    """Which of the nearest rows two layers have in common, for all pairs of layers."""

    def __init__(self, a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> None:
        n_rows = len(a[0])
        self.begin = (np.arange(n_rows) * n_rows)[:, None]
        self.is_near = [np.zeros(n_rows * n_rows, np.uint8) for _ in a[:: len(_BITS)]]
        for place, near in enumerate(a):  # a bit of each pair of rows for each of eight layers
            group, bit = divmod(place, len(_BITS))
            self.is_near[group][(self.begin + near).ravel()] |= _BITS[bit]
        self.n_a, self.b = len(a), b

    def measured(self, rows: np.ndarray) -> np.ndarray:
        """Mutual k-NN (layers_a, layers_b), where row t of A meets rows[t] of B."""
        now = np.empty(len(rows), np.int64)  # where each row of B stands
        now[rows] = np.arange(len(rows))
        shared = np.empty((self.n_a, len(self.b)))
        for place, near in enumerate(self.b):
            pairs = (self.begin + now[near[rows]]).ravel()
            for group, is_near in enumerate(self.is_near):
                found = is_near[pairs]
                for own in range(group * len(_BITS), min(self.n_a, (group + 1) * len(_BITS))):
                    count = np.count_nonzero(found & _BITS[own % len(_BITS)])
                    shared[own, place] = count / near.size
        return shared
