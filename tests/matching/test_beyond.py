"""What controls explain: against dense least squares, by hand, on planted mixtures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import scipy.sparse
import scipy.stats

from homolog.matching import prepare
from homolog.matching.beyond import Grouping, beyond_controls, beyond_matches
from homolog.matching.columns import DENSE_DENSITY
from homolog.matching.control_fit import fitted
from homolog.matching.homologs import Baseline

N = 6000


def sparse(rng: np.random.Generator, n: int, density: float) -> np.ndarray:
    return np.where(rng.random((N, n)) < density, rng.exponential(size=(N, n)), 0)


def place(matrix: np.ndarray, features: list[int] | None = None):
    number = np.arange(matrix.shape[1]) if features is None else np.array(features)
    return [prepare(scipy.sparse.csr_array(matrix))], np.zeros(len(number), np.int64), number


def measured(x, y, controls, document, token=None, **options) -> pl.DataFrame:
    grouping = Grouping.of(document, token, options.pop("n_groups", 32))
    places = [place(x), place(y), *map(place, controls)]
    return beyond_controls(
        places[0], places[1], places[2:], grouping, lambda layer: layer, **options
    )


def slow(x, y, controls, document, token, n_groups):
    """The module's equations on dense columns of one feature."""
    grouping = Grouping.of(document, token, n_groups)

    def within(column: np.ndarray) -> np.ndarray:
        column = column - (column.mean() if (column != 0).mean() > DENSE_DENSITY else 0.0)
        left = column.copy()
        for g in range(n_groups):
            own, other = grouping.group == g, grouping.group != g
            values, kind = column[other], grouping.kind[other]
            kinds, place, n = np.unique(kind, return_inverse=True, return_counts=True)
            mean = np.bincount(place, values) / n
            noise = ((values - mean[place]) ** 2).sum() / (n.sum() - len(kinds))
            between = (n * (mean - values.mean()) ** 2).sum() - (len(kinds) - 1) * noise
            spread = between / max(1, n.sum() - (n**2).sum() / n.sum())
            weight = n / (n + noise / spread) if spread > 0 else 0 * n
            for k, predicted in zip(kinds, weight * mean, strict=True):
                left[own & (grouping.kind == k)] -= predicted
        return left - left.mean()

    centred = x - x.mean()
    total = centred @ centred
    line = np.column_stack([np.ones(N), y])
    left_y = x - line @ np.linalg.lstsq(line, x, rcond=None)[0]
    inner, outer = within(x), np.column_stack([within(u) for u in controls])
    left_c = inner - outer @ np.linalg.lstsq(outer, inner, rcond=None)[0]
    share_y, share_c = 1 - left_y @ left_y / total, 1 - left_c @ left_c / total
    beyond = share_y - share_c
    moved = np.zeros(n_groups)
    np.add.at(moved, grouping.group, (left_c**2 - left_y**2 - beyond * centred**2) / total)
    se = np.sqrt(n_groups / (n_groups - 1) * (moved**2).sum())
    return 1 - inner @ inner / total, max(share_c, 0) ** 0.5, beyond, se


def study(seed: int = 0):
    """Features that a token, an untrained model, both, or neither have; a partner of each."""
    rng = np.random.default_rng(seed)
    document = np.sort(rng.integers(0, 70, N))
    token = rng.zipf(1.5, N) % 200
    by_token = sparse(rng, 4, 0.1) * 0 + (token[:, None] == np.arange(1, 5))
    latent, private = sparse(rng, 4, 0.1), sparse(rng, 4, 0.1)
    x = np.column_stack(
        [by_token[:, 0], latent[:, 1], by_token[:, 2] + latent[:, 2], private[:, 3]]
    )
    noise = rng.normal(1, 0.3, (N, 4))
    y = x * noise
    u = np.column_stack([private[:, 0], *(latent[:, 1:] * rng.normal(1, 0.3, (N, 3))).T])
    return x, y, [u, sparse(rng, 4, 0.3)], document, token


def test_equals_dense_least_squares() -> None:
    x, y, controls, document, token = study()
    for given, n_groups in ((token, 32), (token, 5), (None, 32)):
        found = measured(x, y, controls, document, given, n_groups=n_groups)
        for i in range(4):
            columns = [u[:, i] for u in controls]
            wanted = slow(x[:, i], y[:, i], columns, document, given, n_groups)
            row = found.row(i)[:4]
            np.testing.assert_allclose(row, wanted, rtol=2e-5, atol=2e-6)
            t = row[2] / row[3]
            p = scipy.stats.t.sf(t, n_groups - 1)
            assert found["beyond_p"][i] == pytest.approx(p, rel=1e-3, abs=1e-300)


def test_only_what_no_control_and_no_mixture_has_is_beyond() -> None:
    found = measured(*study())
    beyond = found["beyond"].to_numpy()
    assert (beyond[:3] < 0.04).all(), "token, latent of the untrained, mixture of both"
    assert beyond[3] > 0.5 and found["beyond_p"][3] < 1e-6
    assert found["token_r2"][0] == pytest.approx(1, abs=1e-6)
    assert 0.1 < found["token_r2"][2] < 0.9
    alone = measured(*(part for part in study()[:4]))  # the token no longer a control
    assert alone["beyond"][0] > 0.5 and alone["beyond"][2] > 0.04


def test_noise_of_a_control_does_not_make_a_partner() -> None:
    """Copies with equal noise: nothing beyond, though the partial correlation is far from 0."""
    rng = np.random.default_rng(3)
    x = sparse(rng, 40, 0.1)
    document = np.repeat(np.arange(60), N // 60)
    y, u = (x * rng.exponential(size=x.shape) for _ in range(2))
    found = measured(x, y, [u], document)
    assert abs(found["beyond"].mean()) < 0.01
    t = (found["beyond"] / found["beyond_se"]).to_numpy()
    assert 0.6 < t.std() < 1.6 and abs(t.mean()) < 0.5  # the standard errors are right
    partial = []
    for i in range(40):
        r = np.corrcoef([x[:, i], y[:, i], u[:, i]])
        left = np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
        partial.append((r[0, 1] - r[0, 2] * r[1, 2]) / left)
    assert np.mean(partial) > 0.3


def test_by_hand() -> None:
    """x fires on 4 tokens of one document, y on one of them; without a control or a token."""
    x, y = np.zeros((N, 1)), np.zeros((N, 1))
    x[:4, 0], y[0, 0] = 1, 5
    document = np.repeat([0, 1], N // 2)
    found = measured(x, y, [], document)
    # r^2 = cov^2 / (var var) = ((1 - 4/N)/N)^2 / (4/N (1 - 4/N) 1/N (1 - 1/N)) = (N-4) / (4 (N-1));
    # all tokens are one kind, whose mean says nothing
    line = (N - 4) / (4 * (N - 1))
    assert found["token_r2"][0] == pytest.approx(0, abs=1e-9)
    assert found["beyond"][0] == pytest.approx(line, rel=1e-6)
    assert found["control_r"][0] == pytest.approx(0, abs=1e-4)
    one = measured(x, y, [], np.zeros(N, int))
    assert np.isnan(one["beyond_se"][0]) and np.isnan(one["beyond_p"][0])


def test_undefined_missing_and_repeated_columns() -> None:
    x, y, controls, document, token = study()
    grouping = Grouping.of(document, token)
    own, partner = place(x, [0, -1, 2, 3]), place(y, [0, 1, -1, 3])
    twice = [place(controls[0], [0, 1, 2, -1])] * 2
    found = beyond_controls(own, partner, twice, grouping, lambda layer: layer)
    assert found["beyond"].is_nan().to_list() == [False, True, True, False]
    once = beyond_controls(own, partner, twice[:1], grouping, lambda layer: layer)
    np.testing.assert_allclose(found["beyond"], once["beyond"], atol=1e-5)


def test_threads_and_dense_columns_change_nothing() -> None:
    x, y, controls, document, token = study()
    dense = [np.column_stack([controls[0][:, :2], sparse(np.random.default_rng(1), 2, 0.9)])]
    found = [measured(x, y, dense, document, token, threads=n) for n in (1, 3)]
    assert found[0].equals(found[1])
    wanted = slow(x[:, 3], y[:, 3], [dense[0][:, 3]], document, token, 32)
    np.testing.assert_allclose(found[0].row(3)[:4], wanted, rtol=2e-5, atol=2e-6)


def test_a_control_that_is_fitted_worse_is_left_out_and_named() -> None:
    rows = [("B", "sae", 0.8), ("B", "sae", 0.9), ("twin", "sae", 0.8), ("twin", "sae", 0.72)]
    saes = pl.DataFrame(rows, schema=["model", "label", "explained_variance"], orient="row")
    twin = Baseline("random-model", "an untrained {}", {"B": ("twin", "sae")})
    turned = Baseline("rotated", "{} rotated", {"B": ("B", "rotated")})
    kept = fitted([twin, turned], saes, 0.1)  # 0.76 against 0.85
    assert kept.left_out == {} and kept.baselines == [twin, turned]
    out = fitted([twin, turned], saes, 0.05)
    assert out.baselines[0].stand_ins == {} and out.baselines[1] == turned
    words = out.left_out["random-model", "B"]
    assert words == (
        "twin, whose dictionaries explain 76% of the variance, where those of B explain 85%"
    )


def test_tokens_that_explain_nothing_take_nothing_from_the_other_controls() -> None:
    """Thousands of rare tokens: the means of each are noise, and are not taken for prediction."""
    rng = np.random.default_rng(5)
    x = sparse(rng, 20, 0.1)
    document, token = np.repeat(np.arange(60), N // 60), rng.integers(0, N // 4, N)
    u = x * rng.exponential(size=x.shape)
    found, alone = (measured(x, u, [u], document, given) for given in (token, None))
    # means of two tokens, as they are, would add half of the variance: token_r2 = -0.5
    assert found["token_r2"].abs().max() < 0.05 and found["token_r2"].abs().mean() < 0.01
    lost = (alone["control_r"] ** 2 - found["control_r"] ** 2).to_numpy()
    assert abs(lost).max() < 0.1 and abs(lost).mean() < 0.02


def test_a_column_is_found_by_the_number_of_its_block():
    """Features at blocks 2 and 6 of 8 are judged as where blocks 0 and 1 are all there are."""
    rng = np.random.default_rng(5)
    columns = {side: [sparse(rng, 3, 0.1) for _ in range(2)] for side in "AB"}
    columns["B"] = [b + a for a, b in zip(columns["A"], columns["B"], strict=True)]
    rows = {"model": ["A"] * 4, "label": ["sae"] * 4, "feature": [0, 2, 1, 0], "r": [0.5] * 4}
    partners = {"best_model": ["B"] * 4, "best_label": ["sae"] * 4, "best_feature": [0, 2, 1, 1]}
    grouping = Grouping.of(np.repeat(np.arange(60), N // 60), None, 8)

    def judged(numbers: list[int]) -> pl.DataFrame:
        layers = {
            side: [SimpleNamespace(layer=n, x=x) for n, x in zip(numbers, parts, strict=True)]
            for side, parts in columns.items()
        }
        at = {"layer": [numbers[i] for i in (0, 0, 1, 1)]}
        at |= {"best_layer": [numbers[i] for i in (0, 0, 1, 0)]}
        table = pl.DataFrame(rows | partners | at)
        control = table.select(
            best_model="model", best_label="label", best_layer="layer", best_feature="feature"
        ).with_columns(best_feature=pl.lit(1))
        return beyond_matches(
            table,
            [control],
            grouping,
            lambda model, _label: layers[model],
            lambda layer: prepare(scipy.sparse.csr_array(layer.x)),
        )

    plain = judged([0, 1])
    assert plain["beyond"].is_not_nan().all() and plain["beyond"].n_unique() == 4
    assert judged([2, 6]).equals(plain)
