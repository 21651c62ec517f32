"""Similarity of whole spaces, beside that of single features: CKA, SVCCA and RSA.

For the residual streams X (tokens, d_a) and Y (tokens, d_b) of two layers over the same tokens,
centred, with the scatter matrices S_xx = X'X, S_yy = Y'Y, S_xy = X'Y:

    linear CKA = |S_xy|^2 / (|S_xx| |S_yy|)                     Frobenius norms [Kornblith 2019]
    SVCCA      = mean singular value of W_x' S_xy W_y           [Raghu 2017]

where W_x holds the leading eigenvectors of S_xx that explain `VARIANCE` of its trace, each divided
by the root of its eigenvalue: the singular values are the canonical correlations of the kept
directions.  Second moments are enough for both, so `SpaceMoments` takes tokens shard by shard, in
float64, around running means [Chan 1979].

For the decoder directions of matched features, one pair a row, `decoder_similarity` gives the same
SVCCA over pairs, and RSA: Spearman's correlation of the cosines between the directions of A with
those of B, over pairs of pairs [Kriegeskorte 2008]; for dictionaries as in [Lan 2024].

By chance: over all shuffles of the tokens of Y, |S_xy|^2 has the mean tr(S_xx) tr(S_yy) / (n - 1),
and the squared canonical correlations have the mean max(kept_x, kept_y) / (n - 1), both exactly
(docs/methods-spaces.md).

Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv
1905.00414. Raghu et al., "SVCCA", NeurIPS 2017, arXiv 1706.05806.  Chan, Golub, LeVeque, "Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.  Kriegeskorte et al.,
"Representational similarity analysis", 2008. Lan et al., "Quantifying Feature Space Universality
Across Large Language Models via Sparse Autoencoders", 2024, arXiv 2410.06981.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata

from homolog.errors import InputError
from homolog.threads import library_threads, single_threaded

VARIANCE = 0.99  # share of the variance that the directions kept by SVCCA explain, as in Raghu 2017
SAMPLES_A_DIRECTION = 2  # SVCCA is undefined for fewer samples per kept direction of both sides
BLOCK = 2048  # tokens that are held in float64 at once
RSA_PAIRS = 2000  # pairs of directions in RSA: two million cosines a side

Matrix = torch.Tensor | np.ndarray


@dataclass(frozen=True)
class SpaceSimilarity:
    """How alike the layers of A and of B are as spaces, and what shuffled tokens would give.

    cka, svcca: float64 (layers_a, layers_b), 0 to 1.  NaN: a layer is constant over the tokens (or
    there are fewer than two); for svcca also fewer than `SAMPLES_A_DIRECTION` (kept_a + kept_b) + 1
    tokens.  cka_chance: what CKA is on average when the tokens of B are shuffled.  svcca_chance: an
    upper bound of that mean for SVCCA (the root of the mean square; the mean is about 0.85 of it
    for equal widths).
    kept_a, kept_b: directions that SVCCA kept.
    """

    cka: Float[np.ndarray, "layers_a layers_b"]
    svcca: Float[np.ndarray, "layers_a layers_b"]
    cka_chance: Float[np.ndarray, "layers_a layers_b"]
    svcca_chance: Float[np.ndarray, "layers_a layers_b"]
    kept_a: Int[np.ndarray, "layers_a"]
    kept_b: Int[np.ndarray, "layers_b"]
    n_tokens: int

    @classmethod
    def of(
        cls,
        numbers: Float[np.ndarray, "layers_a layers_b 2"],
        norm: Float[np.ndarray, "layers"],
        trace: Float[np.ndarray, "layers"],
        kept: Int[np.ndarray, "layers"],
        n_tokens: int,
    ) -> SpaceSimilarity:
        """Of |S_xy|^2 and SVCCA of each pair; norm, trace of S_xx, and kept: of A, then of B."""
        n_a, freedom = len(numbers), max(n_tokens - 1, 1)
        norm = np.where(norm == 0, np.nan, norm)
        square, svcca = numbers.transpose(2, 0, 1)
        cka = np.minimum(square / np.outer(norm[:n_a], norm[n_a:]), 1.0)
        cka_chance = np.outer((trace / norm)[:n_a], (trace / norm)[n_a:]) / freedom
        svcca_chance = np.sqrt(np.maximum.outer(kept[:n_a], kept[n_a:]) / freedom)
        svcca_chance[np.isnan(svcca)] = np.nan
        return cls(cka, svcca, cka_chance, svcca_chance, kept[:n_a], kept[n_a:], n_tokens)


class SpaceMoments:
    """Means and scatter matrices over the tokens seen, for all layer pairs of two models.

    widths_a, widths_b: d_model of each layer.  device: where the sums lie and the products run
    (float64: "cpu" or a CUDA device); shards may come from any device.  threads: CPU threads
    (default: torch's); each product is one thread's, so no result depends on it.

    Memory: 8 bytes for each entry of the scatter matrices, (sum of widths_a) x (sum of widths_b) +
    the squares of all widths: 1.5 GB for 12 and 24 layers of 768; and `BLOCK` tokens of all layers.
    """

    def __init__(
        self,
        widths_a: Sequence[int],
        widths_b: Sequence[int],
        *,
        device: str | torch.device = "cpu",
        threads: int | None = None,
    ) -> None:
        self.widths_a, self.widths_b = tuple(map(int, widths_a)), tuple(map(int, widths_b))
        for field, widths in (("widths_a", self.widths_a), ("widths_b", self.widths_b)):
            if not widths or min(widths) < 1:
                requirement = "each model needs at least one layer, each of width 1 or more"
                raise InputError(field, widths, requirement, "Give d_model of every layer.")
        self.device = torch.device(device)
        self.threads = threads
        self.n_tokens = 0
        # Spaces are numbered: the layers of A, then the layers of B.
        widths = self.widths_a + self.widths_b
        self._mean = [self._zeros(width) for width in widths]
        n_a, n = len(self.widths_a), len(widths)
        pairs = [(i, i) for i in range(n)] + [(i, j) for i in range(n_a) for j in range(n_a, n)]
        self._scatter = {(i, j): self._zeros(widths[i], widths[j]) for i, j in pairs}

    def add(self, residuals_a: Sequence[Matrix], residuals_b: Sequence[Matrix]) -> None:
        """Take one shard: (tokens, d_model) of every layer of A and B; row t is the same token.

        residuals_a, residuals_b: of any float dtype, from any device.
        Raises InputError, before anything is taken, for wrong shapes, NaN and infinity.
        """
        n_tokens = None
        for side, residuals, widths in (
            ("a", residuals_a, self.widths_a),
            ("b", residuals_b, self.widths_b),
        ):
            if len(residuals) != len(widths):
                requirement = f"moments were opened for {len(widths)} layers"
                remedy = "Give every layer once."
                raise InputError(f"layers of residuals_{side}", len(residuals), requirement, remedy)
            for layer, (x, width) in enumerate(zip(residuals, widths, strict=True)):
                n_tokens = check_rows(f"residuals_{side}[{layer}]", x, width, n_tokens)
        assert n_tokens is not None
        spaces = (*residuals_a, *residuals_b)
        with single_threaded(self.threads) as pool:
            for start in range(0, n_tokens, BLOCK):
                self._add_block([x[start : start + BLOCK] for x in spaces], pool)

    def merge(self, other: SpaceMoments) -> None:
        """Take the tokens of `other`, up to rounding as if they had been added here.

        For the same bytes, merge the same shards in the same order.  Raises InputError when widths
        differ.
        """
        mine, theirs = (self.widths_a, self.widths_b), (other.widths_a, other.widths_b)
        if mine != theirs:
            requirement = f"moments are merged with those of widths {mine}"
            raise InputError("widths", theirs, requirement, "Merge one study's.")

        def products(i: int, j: int) -> None:
            self._scatter[i, j].add_(other._scatter[i, j].to(self.device))

        with single_threaded(self.threads) as pool:
            means = [mean.to(self.device) for mean in other._mean]
            self._take(other.n_tokens, means, products, pool)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is known, for storing.

        n_tokens, widths_a, widths_b (int64), mean.I, scatter.I.J (float64), where I, J number the
        spaces: the layers of A from 0, then those of B.
        """
        sums = {f"mean.{i}": mean for i, mean in enumerate(self._mean)}
        sums |= {f"scatter.{i}.{j}": scatter for (i, j), scatter in self._scatter.items()}
        return {
            "n_tokens": np.array([self.n_tokens]),
            "widths_a": np.array(self.widths_a),
            "widths_b": np.array(self.widths_b),
            **{name: tensor.cpu().numpy().copy() for name, tensor in sums.items()},
        }

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, np.ndarray],
        *,
        device: str | torch.device = "cpu",
        threads: int | None = None,
    ) -> SpaceMoments:
        """What `arrays` gave.  Raises InputError when an array is missing or has another shape."""

        def array(name: str, *shape: int) -> np.ndarray:
            if name not in arrays or (shape and arrays[name].shape != shape):
                stored = arrays[name].shape if name in arrays else "missing"
                requirement = f"stored moments need an array of shape {shape or 'of one axis'}"
                remedy = "Delete the file and accumulate this shard again."
                raise InputError(name, stored, requirement, remedy)
            return arrays[name]

        widths = (array(name).tolist() for name in ("widths_a", "widths_b"))
        made = cls(*widths, device=device, threads=threads)
        made.n_tokens = int(array("n_tokens", 1)[0])
        for i, mean in enumerate(made._mean):
            mean.copy_(torch.tensor(array(f"mean.{i}", *mean.shape)))
        for (i, j), sums in made._scatter.items():
            sums.copy_(torch.tensor(array(f"scatter.{i}.{j}", *sums.shape)))
        return made

    def similarity(self) -> SpaceSimilarity:
        """CKA and SVCCA of all layer pairs over the tokens seen, computed on the CPU."""
        n_a, n_b = len(self.widths_a), len(self.widths_b)
        with single_threaded(self.threads) as pool:
            scatter = [self._scatter[i, i].cpu() for i in range(n_a + n_b)]
            whitening = list(pool.map(_whitening, scatter))

            def pair(ij: tuple[int, int]) -> tuple[float, float]:
                i, j = ij
                cross = self._scatter[i, j].cpu()
                svcca = mean_correlation(whitening[i].T @ cross @ whitening[j], self.n_tokens)
                return float(torch.linalg.vector_norm(cross)) ** 2, svcca

            pairs = [(i, n_a + j) for i in range(n_a) for j in range(n_b)]
            numbers = np.array(list(pool.map(pair, pairs))).reshape(n_a, n_b, 2)
            norm = np.array([float(torch.linalg.vector_norm(s)) for s in scatter])
            trace = np.array([float(s.trace()) for s in scatter])
        kept = np.array([w.shape[1] for w in whitening])
        return SpaceSimilarity.of(numbers, norm, trace, kept, self.n_tokens)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def _add_block(self, block: list[Matrix], pool: Executor) -> None:
        def centre(part: Matrix) -> tuple[torch.Tensor, torch.Tensor]:
            x = _float64(part, self.device)
            mean = mean_row(x)
            return mean, x - mean

        means, centred = zip(*pool.map(centre, block), strict=True)

        def products(i: int, j: int) -> None:
            self._scatter[i, j].addmm_(centred[i].T, centred[j])

        self._take(len(block[0]), means, products, pool)

    def _take(
        self,
        n: int,
        means: Sequence[torch.Tensor],
        products: Callable[[int, int], None],
        pool: Executor,
    ) -> None:
        """Join `n` tokens of these means, whose scatter `products(i, j)` adds, to those seen."""
        if n == 0:
            return
        total = self.n_tokens + n
        shift = [mean - own for mean, own in zip(means, self._mean, strict=True)]

        def join(pair: tuple[int, int]) -> None:
            i, j = pair
            products(i, j)
            self._scatter[i, j].addr_(shift[i], shift[j], alpha=self.n_tokens * n / total)

        list(pool.map(join, self._scatter))
        for own, step in zip(self._mean, shift, strict=True):
            own.add_(step, alpha=n / total)
        self.n_tokens = total


@dataclass(frozen=True)
class DecoderSimilarity:
    """How alike the decoder directions of matched features lie in the two models.

    rsa: Spearman's correlation, -1 to 1, over the first `RSA_PAIRS` pairs; NaN for fewer than 3
    pairs or when all cosines of a side are equal.  svcca: 0 to 1, over all pairs; NaN for fewer
    than `SAMPLES_A_DIRECTION` times the kept directions of both sides + 1 pairs.
    """

    rsa: float
    svcca: float
    n_pairs: int


def decoder_similarity(directions_a: Matrix, directions_b: Matrix) -> DecoderSimilarity:
    """RSA and SVCCA of the decoder directions of matched features.

    directions_a: (pairs, d_a), directions_b: (pairs, d_b): row p of both is one pair.  Give pairs
    one to one (a direction that comes back many times is many samples) and the best matched first:
    RSA takes the first `RSA_PAIRS`.  What chance gives: the same with the rows of one side
    shuffled.

    Raises InputError for other shapes, NaN, infinity, and rows of length 0, which have no cosine.
    """
    n_pairs = check_rows("directions_a", directions_a, None, None)
    check_rows("directions_b", directions_b, None, n_pairs)
    a, b = (_float64(x, torch.device("cpu")) for x in (directions_a, directions_b))
    for field, x in (("directions_a", a), ("directions_b", b)):
        if (empty := (x == 0).all(1)).any():
            row = f"{field}, row {int(empty.nonzero()[0])}"
            requirement = "a direction of length 0 has no cosine with others"
            raise InputError(row, 0.0, requirement, "Leave dead features out.")
    with library_threads(1, "torch"):
        near_a, near_b = (_cosine_ranks(x[:RSA_PAIRS]) for x in (a, b))
        rsa = 0.5 * float((near_a * near_b).sum())
        svcca = mean_correlation(_scores(a).T @ _scores(b), n_pairs)
    return DecoderSimilarity(rsa if n_pairs > 2 else np.nan, svcca, n_pairs)


def check_rows(field: str, x: Matrix, width: int | None, n_rows: int | None) -> int:
    """Number of rows of a finite matrix of this width and number of rows (None: any)."""
    shape = tuple(x.shape)
    needed = (n_rows, width)
    if len(shape) != 2 or any(n not in (None, has) for n, has in zip(needed, shape, strict=True)):
        rows = "rows" if n_rows is None else n_rows
        requirement = f"it needs the shape ({rows}, {width or 'd_model'})"
        remedy = "Row t of every matrix must be the same token, or the same pair."
        raise InputError(f"the shape of {field}", shape, requirement, remedy)
    finite = np.isfinite(x) if isinstance(x, np.ndarray) else torch.isfinite(x).cpu().numpy()
    if not finite.all():
        row, channel = (int(place) for place in np.argwhere(~finite)[0])
        place, value = f"{field}, row {row}, channel {channel}", float(x[row, channel])
        remedy = "Leave that token, or that feature, out."
        raise InputError(place, value, "moments exist of finite numbers only", remedy)
    return shape[0]


def _float64(x: Matrix, device: torch.device) -> torch.Tensor:
    if isinstance(x, np.ndarray):
        return torch.from_numpy(np.array(x, dtype=np.float64)).to(device)
    return x.detach().to(device, torch.float64)


def mean_row(x: torch.Tensor) -> torch.Tensor:
    """Means (d,) of x (rows, d), around the first row, so that constants are not rounded."""
    return x[0] + (x - x[0]).mean(0)


def _whitening(scatter: torch.Tensor) -> torch.Tensor:
    """(d, kept): directions that explain `VARIANCE` of a scatter matrix; scores have length 1."""
    values, vectors = torch.linalg.eigh(scatter)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if not scatter.any():
        return vectors[:, :0]
    kept = n_kept(values)
    return vectors[:, :kept] / values[:kept].sqrt()


def n_kept(values: torch.Tensor) -> int:
    """How many of the eigenvalues (d,), descending and at least 0, make up `VARIANCE` of all."""
    if not values.any():
        return 0
    return int((values.cumsum(0) < VARIANCE * values.sum()).sum()) + 1


def mean_correlation(product: torch.Tensor, n_samples: int) -> float:
    """Mean singular value of the product (kept_a, kept_b) of two sides' orthonormal scores.

    NaN for too few samples.
    """
    kept_a, kept_b = product.shape
    if not kept_a or not kept_b or n_samples - 1 < SAMPLES_A_DIRECTION * (kept_a + kept_b):
        return np.nan
    return float(torch.linalg.svdvals(product).clamp(max=1).mean())


def _scores(x: torch.Tensor) -> torch.Tensor:
    """(rows, kept): orthonormal scores of x (rows, d) on the directions that SVCCA keeps."""
    if not len(x):
        return x[:, :0]
    centred = x - mean_row(x)
    return centred @ _whitening(centred.T @ centred)


def _cosine_ranks(x: torch.Tensor) -> torch.Tensor:
    """(rows, rows): ranks of the cosines of row pairs, centred, of length 1 above the diagonal.

    NaN when all are equal.  Half the sum of the products of two such is Spearman's correlation;
    scipy sums by BLAS, whose bits depend on the number of threads.  Cosines are rounded to 7
    decimals, about what float32 weights carry, so that equal ones are ties.
    """
    unit = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    upper = np.triu_indices(len(x), 1)
    ranks = rankdata((unit @ unit.T).numpy()[upper].round(7))
    ranks -= (len(ranks) + 1) / 2
    square = np.zeros((len(x), len(x)))
    length = np.sqrt((ranks**2).sum())
    square[upper] = ranks / length if length else np.nan
    return torch.from_numpy(square + square.T)
