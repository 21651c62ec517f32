"""Partners in features' places: planted partners, every loss a second way, ratios by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array
from tests.analyses.test_causal import stream, writing

from homolog import load
from homolog.analyses.causal import substitution
from homolog.analyses.causal.forward import ProbedModel
from homolog.analyses.causal.pairs import PAIRS_SCHEMA
from homolog.analyses.causal.substitution import loss_recovered, substitute
from homolog.analyses.stream import split_documents
from homolog.corpus import TokenWindows
from homolog.models import LanguageModel
from homolog.record.tables import LOSS_RECOVERED, SUBSTITUTIONS

NAN = float("nan")
TWICE, APART, SOME = 0, 1, 2
"""Features of A: b is twice a; b is independent of a; b is a noisy copy of a."""
N_RANDOM = 6  # further features of B, independent of all


def text() -> TokenWindows:
    """Windows of which two each are a document, a tenth of their tokens special."""
    plain = stream(24)
    document = (np.arange(24) // 2)[:, None].repeat(plain.context, axis=1).astype(np.int32)
    return TokenWindows(plain.tokens, document, plain.mask, tokenizer_fingerprint="f")


def planted(windows: TokenWindows) -> tuple[np.ndarray, np.ndarray]:
    rng, n = np.random.default_rng(1), int(windows.mask.sum())

    def sparse(width: int) -> np.ndarray:
        return (0.5 + rng.random((n, width))) * (rng.random((n, width)) < 0.08)

    a, others = sparse(3), sparse(N_RANDOM)
    some = a[:, SOME] * (0.8 + 0.4 * rng.random(n)) * (rng.random(n) < 0.95)
    b = np.column_stack([2 * a[:, TWICE], sparse(1)[:, 0], some, others])
    return a.astype(np.float32), b.astype(np.float32)


def pairs_of(layer: int, n: int = 3) -> pl.DataFrame:
    """Feature k of A with k of B, and a control, which is left alone."""
    names = {"model": "A", "layer": layer, "best_model": "B", "best_layer": 5}
    rows = [
        dict.fromkeys(PAIRS_SCHEMA, 0)
        | names
        | {"pair": k, "matched": True, "feature": k, "best_feature": k, "r": 0.75}
        for k in range(n)
    ]
    return pl.DataFrame([*rows, rows[0] | {"matched": False}], schema=PAIRS_SCHEMA)


def directions(model: LanguageModel) -> torch.Tensor:
    scale = model.residuals(torch.arange(5, 105)[None])[0].norm(dim=-1).median()
    made = torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(3))
    return 0.3 * scale * made / made.norm(dim=1, keepdim=True)


def measured(ref: str, layer: int) -> tuple[LanguageModel, torch.Tensor, pl.DataFrame]:
    model, windows = load(ref), text()
    a, b = planted(windows)
    written = directions(model)
    probed = ProbedModel(model, {layer: writing(written)})
    matrices = [lambda _, m=m: csr_array(m) for m in (a, b)]
    return model, written, substitute(pairs_of(layer), windows, probed, *matrices)


@torch.no_grad()
def by_hooks(
    model: LanguageModel, layer: int, tokens: np.ndarray, added: np.ndarray, direction: torch.Tensor
) -> np.ndarray:
    """log p (position, vocabulary) of a window from the module itself, with a hook on a block."""

    def hook(_module, _given, output):
        h = output[0] if isinstance(output, tuple) else output
        h = h + torch.from_numpy(added)[None, :, None] * direction
        return (h, *output[1:]) if isinstance(output, tuple) else h

    handle = model.blocks()[layer].register_forward_hook(hook)
    try:
        logits = model.hf(torch.from_numpy(tokens[None]).long(), use_cache=False).logits
    finally:
        handle.remove()
    return logits[0].double().log_softmax(-1).numpy()


@pytest.mark.parametrize(
    ("ref", "layer"), [("zoo:transformer-s0", 1), ("zoo:mamba-s0", 3), ("zoo:transformer-s0", 3)]
)
def test_losses_are_those_of_single_runs_with_a_hook(
    ref: str, layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(substitution, "WINDOWS", 100)  # all that there are
    model, written, table = measured(ref, layer)
    windows = text()
    a, b = planted(windows)
    kept = windows.mask.reshape(-1)
    half = split_documents(windows.document.reshape(-1)[kept], (0.5, 0.5), 0)
    tested = np.unique(windows.document.reshape(-1)[kept][half == 1])
    in_place = np.zeros((2, len(kept), a.shape[1] + N_RANDOM), dtype=np.float32)
    in_place[0, kept, : a.shape[1]] = a
    in_place[1, kept] = b
    of_a, of_b = in_place.reshape(2, *windows.tokens.shape, -1)
    assert dict(table.schema) == SUBSTITUTIONS.schema and table["feature"].to_list() == [0, 1, 2]
    for row in table.iter_rows(named=True):
        x, y = of_a[..., row["feature"]], of_b[..., row["best_feature"]]
        z = of_b[..., row["random_feature"]]
        fit = windows.mask & ~np.isin(windows.document, tested)
        for scale, of in ((row["scale"], y), (row["random_scale"], z)):
            least = np.linalg.lstsq(of[fit][:, None], x[fit], rcond=None)[0]
            assert scale == pytest.approx(float(least[0]), rel=1e-4)
        fires = (x > 0) | (y > 0)
        able = [w for w in range(len(windows)) if windows.document[w, 0] in tested]
        able = [w for w in able if fires[w].any()]
        assert row["n_windows"] == len(able) > 4
        each = [_of_window(model, layer, windows, w, x, y, z, row, written) for w in able]
        expected = np.sum(each, axis=0)
        names = ("loss_clean", "loss_zero", "loss_partner", "loss_random")
        names = (*names, "kl_zero", "kl_partner", "kl_random")
        means = [row[name] for name in names]
        assert row["n_tokens"] == expected[0]
        assert np.allclose(means, expected[1:] / expected[0], rtol=1e-4, atol=1e-6)


def _of_window(model, layer, windows, w, x, y, z, row, written) -> np.ndarray:
    """(tokens, four losses, three divergences), summed over the tokens of a window that count."""
    added = {
        "clean": 0 * x[w],
        "zero": -x[w],
        "partner": row["scale"] * y[w] - x[w],
        "random": row["random_scale"] * z[w] - x[w],
    }
    direction = written[row["feature"]]
    logs = [
        by_hooks(model, layer, windows.tokens[w], amount.astype(np.float32), direction)
        for amount in added.values()
    ]
    first = int(np.flatnonzero((x[w] > 0) | (y[w] > 0))[0])
    places = [t for t in range(first, windows.context - 1) if windows.mask[w, t + 1]]
    losses = [-sum(log[t, windows.tokens[w, t + 1]] for t in places) for log in logs]
    clean = logs[0]
    kl = [sum((np.exp(clean[t]) * (clean[t] - log[t])).sum() for t in places) for log in logs[1:]]
    return np.array([len(places), *losses, *kl])


def test_a_partner_of_twice_the_activation_is_as_good_and_an_independent_one_is_none() -> None:
    _, _, table = measured("zoo:transformer-s0", 1)
    rows = {row["feature"]: row for row in table.iter_rows(named=True)}
    assert rows[TWICE]["scale"] == 0.5
    shares = {}
    for feature, row in rows.items():
        (one,) = loss_recovered(table.filter(feature=feature)).head(1).to_dicts()
        shares[feature] = one
        assert one["n"] == 1 and np.isnan(one["recovered_lo"])
        assert one["kl_cost"] == pytest.approx(row["kl_zero"]) and row["kl_zero"] > 0.001
        assert abs(one["kl_random"]) < 0.2
    assert shares[TWICE]["recovered"] == pytest.approx(1, abs=1e-4)
    assert shares[TWICE]["kl_recovered"] == pytest.approx(1, abs=1e-6)
    assert abs(shares[APART]["kl_recovered"]) < 0.2
    assert 0.6 < shares[SOME]["kl_recovered"] < 0.999


def test_windows_do_not_depend_on_the_other_pairs() -> None:
    model, windows = load("zoo:transformer-s0"), text()
    a, b = planted(windows)
    probed = ProbedModel(model, {1: writing(directions(model))})
    matrices = [lambda _, m=m: csr_array(m) for m in (a, b)]
    both = substitute(pairs_of(1), windows, probed, *matrices)
    alone = substitute(pairs_of(1, n=1), windows, probed, *matrices)
    columns = ["pair", "scale", "random_feature", "random_scale", "n_windows", "n_tokens"]
    assert both.filter(pair=0).select(columns).equals(alone.select(columns))


def test_no_pairs_make_empty_tables() -> None:
    model, windows = load("zoo:transformer-s0"), text()
    none = pl.DataFrame(schema=PAIRS_SCHEMA)
    a, b = (csr_array(m) for m in planted(windows))
    table = substitute(none, windows, ProbedModel(model, {}), lambda _: a, lambda _: b)
    assert table.is_empty() and dict(table.schema) == SUBSTITUTIONS.schema


def test_a_partner_that_is_silent_where_it_is_fitted_is_left_out() -> None:
    windows = text()
    a, b = planted(windows)
    document = windows.document.reshape(-1)[windows.mask.reshape(-1)]
    fits = split_documents(document, (0.5, 0.5), 0) == 0
    b[fits, TWICE] = 0
    b[:, 3:] = 0  # no feature fires as often as the others
    b[:, APART] *= np.random.default_rng(4).random(len(b)) < 0.2
    model = load("zoo:transformer-s0")
    probed = ProbedModel(model, {3: writing(directions(model))})
    table = substitute(pairs_of(3), windows, probed, *(lambda _, m=m: csr_array(m) for m in (a, b)))
    assert table["feature"].to_list() == [APART, SOME]
    assert table["random_feature"].to_list()[0] == -1
    for name in ("random_scale", "loss_random", "kl_random"):
        assert np.isnan(table[name][0])
    share = loss_recovered(table[:1]).row(0, named=True)
    assert np.isnan(share["kl_random"]) and np.isfinite(share["kl_recovered"])


def test_shares_are_ratios_of_sums() -> None:
    losses = {
        "loss_clean": [1.0, 2.0, 3.0],
        "loss_zero": [1.5, 2.1, 2.9],
        "loss_partner": [1.1, 2.0, 3.0],
        "loss_random": [1.5, 2.0, NAN],
        "kl_zero": [0.4, 0.2, 0.2],
        "kl_partner": [0.1, 0.2, 0.1],
        "kl_random": [0.4, 0.1, NAN],
    }
    about = {"r": [0.95, 0.75, 0.72], "best_layer": [1, 1, 2], "best_feature": [0, 1, 1]}
    frame = SUBSTITUTIONS.frame(about | losses)
    table = loss_recovered(frame)
    row = table.row(0, named=True)
    assert (row["above_r"], row["to_r"], row["n"]) == (0.7, 1.0, 3)
    assert row["cost"] == pytest.approx((0.5 + 0.1 - 0.1) / 3)
    assert row["recovered"] == pytest.approx((0.4 + 0.1 - 0.1) / (0.5 + 0.1 - 0.1))
    assert row["random"] == pytest.approx((0.0 + 0.1) / (0.5 + 0.1))
    assert row["kl_recovered"] == pytest.approx((0.3 + 0.0 + 0.1) / 0.8)
    assert row["kl_random"] == pytest.approx(0.1 / 0.6)
    assert row["kl_recovered_lo"] == 0.0 and row["kl_recovered_hi"] == pytest.approx(0.75)
    twice = loss_recovered(pl.concat([frame, frame])).row(0, named=True)
    for name in ("kl_recovered", "recovered", "kl_random"):  # partners are drawn, not pairs
        ends = [name, f"{name}_lo", f"{name}_hi"]
        assert [twice[end] for end in ends] == pytest.approx(
            [row[end] for end in ends], nan_ok=True
        )
    one = loss_recovered(frame.with_columns(best_layer=1, best_feature=1)).row(0, named=True)
    assert one["kl_recovered"] == row["kl_recovered"] and np.isnan(one["kl_recovered_lo"])
    middle = table.filter(above_r=0.7, to_r=0.8).row(0, named=True)
    assert middle["n"] == 2 and middle["kl_recovered"] == pytest.approx(0.1 / 0.4)
    empty = loss_recovered(SUBSTITUTIONS.frame())
    assert empty["n"].sum() == 0 and empty["recovered"].is_nan().all()
    named = empty.with_columns(model=pl.lit("A"), best_model=pl.lit("B"))
    assert dict(LOSS_RECOVERED.frame(named).schema) == LOSS_RECOVERED.schema
