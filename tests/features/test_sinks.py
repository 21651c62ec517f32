"""Sinks of a planted model: which layers have them, where they are, and that no row is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.features.helpers import BATCH, CONTEXT, contents, memory, stream
from tests.reference.planted_sinks import BLOCK, sink_llama
from tests.reference.tiny_models import tiny_llama

from homolog import LanguageModel
from homolog.corpus import TokenWindows
from homolog.dictionaries import StoredResiduals
from homolog.dictionaries.quality import Gates
from homolog.dictionaries.variance import SINK_SHARE
from homolog.errors import InputError
from homolog.features import Pool, StreamedResiduals, capture_residuals, residuals, write_residuals
from homolog.features.sinks import (
    LayerNorms,
    find_sinks,
    limits_of,
    measure_norms,
    without_places,
)
from homolog.models.load import _adapt

TOKEN = 17
N_WINDOWS = 22
pytestmark = pytest.mark.usefixtures("small_passes")


@pytest.fixture(scope="module")
def windows() -> TokenWindows:
    """A thirtieth of the tokens is the sink's, some of them masked anyway."""
    windows = stream(N_WINDOWS, seed=1)
    windows.tokens[np.random.default_rng(0).random(windows.tokens.shape) < 1 / 30] = TOKEN
    return windows


@pytest.fixture(scope="module")
def planted() -> LanguageModel:
    return _adapt("planted", sink_llama(300, TOKEN), None)


@pytest.fixture(scope="module")
def plain() -> LanguageModel:
    return _adapt("planted", sink_llama(300, TOKEN, height=0), None)


@pytest.fixture(scope="module")
def limits(planted, windows, small_passes) -> dict[int, float]:
    return limits_of(measure_norms(planted, windows, range(3)))


@pytest.fixture(scope="module")
def others(windows) -> TokenWindows:
    """The windows without the planted token."""
    return without_places(windows, np.flatnonzero(windows.tokens == TOKEN))


@pytest.mark.parametrize("layers_at_once", [1, 2, 3])
def test_layers_with_sinks_are_those_from_the_planted_block_on(
    planted, windows, limits, layers_at_once
) -> None:
    held = layers_at_once * int(windows.mask.sum()) * planted.d_model * 4
    norms = measure_norms(planted, windows, range(3), held)
    x = capture_residuals(planted, windows, range(3))
    for own in norms:
        expected = np.median(np.linalg.norm(x[own.layer].numpy().astype(np.float64), axis=1))
        assert own.median == pytest.approx(expected, rel=1e-6)
        assert (own.sink_share > 0.9) == (own.layer >= BLOCK)
        assert float(x[own.layer].norm(dim=1).max()) > 1000 * own.median or own.layer < BLOCK
    assert limits == {own.layer: 10 * own.median for own in norms if own.layer >= BLOCK}


def test_sinks_are_the_planted_token_wherever_it_is_not_masked(planted, windows, limits) -> None:
    expected = np.flatnonzero((windows.tokens == TOKEN) & windows.mask)
    assert 10 < len(expected) < (windows.tokens == TOKEN).sum()
    for passes in (1, 3, 100):
        sinks = find_sinks(planted, windows, limits, memory(planted, passes))
        assert sinks.places.tolist() == expected.tolist()
        assert sinks.counts == {1: len(expected), 2: len(expected)}
    left = without_places(windows, sinks.places)
    assert left.hash != windows.hash and not (left.tokens[left.mask] == TOKEN).any()
    assert left.mask.sum() == windows.mask.sum() - len(expected)
    first = without_places(windows[:3], sinks.places)  # places beyond its end are no matter
    assert first.hash == left[:3].hash
    assert without_places(windows, sinks.places[:0]) is windows


def test_what_holds_little_of_the_variance_is_no_sink() -> None:
    norms = [LayerNorms(0, 2.0, 0.004), LayerNorms(1, 3.0, 0.5), LayerNorms(2, 1.0, float("nan"))]
    assert SINK_SHARE == Gates().sink_share == 0.1
    assert limits_of(norms) == {1: 30.0}
    assert limits_of(norms, 0.001) == {0: 20.0, 1: 30.0}
    assert limits_of(LayerNorms.of(own.facts()) for own in norms) == {1: 30.0}


def test_a_model_without_sinks_has_no_limits(windows) -> None:
    model = _adapt("plain", tiny_llama(vocab_size=300), None)
    assert limits_of(measure_norms(model, windows, range(3))) == {}


def rows_of(folder: Path, layer: int) -> torch.Tensor:
    stored = StoredResiduals(folder, seed=0, layers=[layer])
    return stored.layers[0].index_select(0, torch.arange(stored.n_tokens))


@pytest.mark.parametrize("batches", [1, 2, 100])
def test_stored_rows_are_those_of_the_model_without_the_sink(
    tmp_path, planted, plain, windows, others, limits, batches
) -> None:
    """Up to the planted block, and in the same places above it."""
    options = {"key": "m", "memory": memory(planted, batches)}
    folder = write_residuals(planted, windows, tmp_path / "own", limits=limits, **options)
    expected = write_residuals(plain, others, tmp_path / "plain", **options)
    for layer in (0, BLOCK):
        assert torch.equal(rows_of(folder, layer), rows_of(expected, layer))
    assert rows_of(folder, 2).shape == rows_of(expected, 2).shape
    assert float(rows_of(folder, 2).norm(dim=1).max()) < limits[2]


def test_without_limits_nothing_changes(tmp_path, planted, windows) -> None:
    written = [
        contents(write_residuals(planted, windows, tmp_path / str(i), key="m", limits=given))
        for i, given in enumerate((None, {}))
    ]
    assert written[0] == written[1]
    assert rows_of(tmp_path / "0", 1).shape[0] == windows.mask.sum()


@pytest.mark.parametrize("fatal", [1, 5, 12])
def test_a_killed_writing_goes_on_without_the_same_rows(
    tmp_path, planted, windows, limits, monkeypatch, fatal
) -> None:
    """Also where what is missing of a shard is a layer that has no sinks."""
    options: dict[str, Any] = {"key": "m", "memory": memory(planted, 1), "limits": limits}
    write_residuals(planted, windows, tmp_path / "whole", **options)
    calls = 0

    def dying(*args, real=residuals.write_part):
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(residuals, "write_part", dying)
    with pytest.raises(KeyboardInterrupt):
        write_residuals(planted, windows, tmp_path / "killed", **options)
    write_residuals(planted, windows, tmp_path / "killed", **options)
    (tmp_path / "killed/0/part-00001.safetensors").unlink()
    write_residuals(planted, windows, tmp_path / "killed", **options)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    other = {layer: 2 * limit for layer, limit in limits.items()}
    write_residuals(planted, windows, tmp_path / "killed", **options | {"limits": other})
    assert contents(tmp_path / "killed") != contents(tmp_path / "whole")


def streamed(model, windows, limits, layers=(0, 1, 2)) -> StreamedResiduals:
    pool = Pool(6 * CONTEXT)
    return StreamedResiduals(model, windows, layers, seed=3, name="m", pool=pool, limits=limits)


def test_in_a_stream_another_token_of_the_pool_stands_for_a_sink(
    planted, plain, windows, others, limits
) -> None:
    own, all_of_it = streamed(planted, windows, limits), streamed(planted, windows, None)
    n = own.n_tokens
    assert n == all_of_it.n_tokens == windows.mask.sum()
    x, unmasked = own.read(0, n), all_of_it.read(0, n)
    is_sink = unmasked[1].norm(dim=1) > limits[1]
    assert int(is_sink.sum()) == ((windows.tokens == TOKEN) & windows.mask).sum()
    for layer in range(3):
        assert torch.equal(x[layer][~is_sink], unmasked[layer][~is_sink])
    assert (x[1].norm(dim=1) < limits[1]).all() and (x[2].norm(dim=1) < limits[2]).all()
    known = {row.numpy().tobytes() for row in capture_residuals(plain, others, [1])[1]}
    assert {row.numpy().tobytes() for row in x[1]} <= known
    assert len({own.fingerprint, all_of_it.fingerprint}) == 2
    again = streamed(planted, windows, limits)
    assert torch.equal(again.read(n // 2, 100)[1], x[1][n // 2 : n // 2 + 100])
    assert streamed(planted, windows, {}).fingerprint == all_of_it.fingerprint


def test_a_pool_of_nothing_but_sinks_is_refused(planted, windows, limits) -> None:
    tokens = np.full((BATCH, CONTEXT), TOKEN, np.int32)
    mask = np.ones(tokens.shape, bool)
    alone = TokenWindows(tokens, np.zeros_like(tokens), mask, "f")
    with pytest.raises(InputError, match=r"pool_tokens.*must hold tokens that are no sinks"):
        streamed(planted, alone, limits).read(0, 2)
