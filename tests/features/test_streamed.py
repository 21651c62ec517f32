"""Residuals from a model that runs as they are read: every token once per epoch, mixed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.features.helpers import BATCH, CONTEXT, residual_sites, stream

from homolog import LanguageModel
from homolog.corpus import TokenWindows
from homolog.dictionaries import ActivationSource, Checkpoint, Place, TrainingConfig, train
from homolog.dictionaries.kinds import relu
from homolog.errors import InputError
from homolog.features import Pool, StreamedResiduals, capture

N_WINDOWS, POOL = 62, 500
pytestmark = pytest.mark.usefixtures("small_passes")


def told_apart(seed: int) -> TokenWindows:
    """A stream whose windows begin with tokens of their own: no two residuals are the same."""
    text = stream(N_WINDOWS, seed)
    tokens = text.tokens.copy()
    tokens[:, 0] = 300 + np.arange(N_WINDOWS)
    return TokenWindows(tokens, text.document, text.mask, tokenizer_fingerprint="f")


@pytest.fixture(scope="module")
def windows() -> TokenWindows:
    return told_apart(seed=1)


@pytest.fixture(scope="module")
def captured(model, windows, small_passes) -> list[torch.Tensor]:
    return capture(model, windows, residual_sites(model))


@pytest.fixture
def source(model, windows) -> StreamedResiduals:
    return StreamedResiduals(model, windows, seed=3, name="m", pool=Pool(POOL))


def identify(rows: torch.Tensor, known: torch.Tensor) -> np.ndarray:
    """Which row of `known` each of the rows is; other windows in a pass change the last digits."""
    distance = torch.cdist(rows.double(), known.double())
    nearest = distance.min(dim=1)
    second = distance.topk(2, dim=1, largest=False).values[:, 1]
    assert float(nearest.values.max()) < 1e-3 < float(second.min())
    return nearest.indices.numpy()


def test_an_epoch_has_every_token_once_in_every_layer(source, windows, captured):
    assert isinstance(source, ActivationSource)
    assert (source.n_layers, source.layer_numbers, source.d_model) == (4, [0, 1, 2, 3], 128)
    n = int(windows.mask.sum())
    assert source.n_tokens == n and source.n_pools == -(-n // POOL) == 4
    for epoch in range(2):
        read = source.read(epoch * n, n)
        orders = [identify(read[layer], captured[layer]) for layer in (1, 3)]
        assert sorted(orders[0].tolist()) == list(range(n))
        assert np.array_equal(*orders)  # the same token of all layers
    assert read[0].shape == (n, 128) and not np.array_equal(orders[0], np.arange(n))


def test_epochs_and_pools_have_orders_of_their_own(source, captured):
    n = source.n_tokens
    first, second = (identify(source.read(epoch * n, n)[3], captured[3]) for epoch in range(2))
    assert (first == second).mean() < 0.05
    other = StreamedResiduals(source.model, source.windows, seed=4, name="m", pool=Pool(POOL))
    assert (identify(other.read(0, n)[3], captured[3]) == first).mean() < 0.05


def test_windows_of_all_documents_are_mixed_within_a_pool(source, windows, captured):
    """Neighbours are as in a random order of the pool, and pools are draws from the whole text."""
    n, window = source.n_tokens, np.repeat(np.arange(N_WINDOWS), windows.mask.sum(axis=1))
    order = np.concatenate([identify(source.read(e * n, n)[3], captured[3]) for e in range(8)])
    together = float((np.diff(window[order]) == 0).mean())
    # 0.064; in the order of the text it is 0.97
    assert together == pytest.approx(CONTEXT / POOL, abs=0.01)
    place = np.array(
        [window[order[i : i + POOL]].mean() for i in range(0, len(order) - POOL, POOL)]
    )
    expected = window.std() / np.sqrt(POOL / CONTEXT)  # a pool is some 16 windows drawn at random
    assert abs(place.mean() - window.mean()) < expected
    assert place.std() < 1.5 * expected


def test_positions_are_addressed_not_consumed(source, model, windows):
    n = source.n_tokens
    whole = source.read(0, 2 * n + 100)  # over borders of pools and epochs
    parts = [(0, 7), (POOL - 60, 130), (n - 20, 40), (2 * n - 1, 2), (3, 2 * n), (0, 7)]
    for start, count in parts:
        fresh = StreamedResiduals(model, windows, seed=3, name="m", pool=Pool(POOL))
        for reader in (source, fresh):
            read = reader.read(start, count)
            for layer in range(4):
                assert torch.equal(read[layer], whole[layer][start : start + count])


def test_the_sample_is_fixed_and_from_the_stream(source, captured):
    sample = source.sample(300)
    source.read(900, 10)
    assert all(torch.equal(a, b) for a, b in zip(sample, source.sample(300), strict=True))
    assert torch.equal(sample[2], source.read(0, 300)[2])
    assert len(set(identify(sample[2], captured[2]).tolist())) == 300
    assert len(source.sample(10**6)[0]) < POOL + CONTEXT  # a pool, when more is asked for


def test_one_pass_a_pool_for_all_layers(source, model, monkeypatch):
    passed: list[tuple[int, int]] = []

    def counted(tokens, *, real=model.run, **options):
        passed.append((len(tokens), len(options["capture"])))
        return real(tokens, **options)

    monkeypatch.setattr(model, "run", counted)
    source.sample(100)
    for start in range(0, source.n_tokens, 50):  # as a training reads
        source.read(start, min(50, source.n_tokens - start))
    assert sum(windows for windows, _ in passed) == N_WINDOWS
    assert {sites for _, sites in passed} == {4}
    assert len(passed) <= N_WINDOWS // BATCH + source.n_pools


def test_fewer_layers_are_the_same_values_and_stop_the_pass(source, model, windows, monkeypatch):
    some = StreamedResiduals(model, windows, [2, 0], seed=3, name="m", pool=Pool(POOL))
    assert some.fingerprint == source.fingerprint and some.layer_numbers == [2, 0]
    stops = []

    def noted(tokens, *, real=model.run, **options):
        stops.append(str(options["stop_after"]))
        return real(tokens, **options)

    monkeypatch.setattr(model, "run", noted)
    read = some.read(40, 600)
    assert set(stops) == {"resid.2"}
    monkeypatch.undo()
    whole = source.read(40, 600)
    assert torch.equal(read[0], whole[2]) and torch.equal(read[1], whole[0])


def test_training_that_was_killed_ends_with_the_same_bytes(model, windows, tmp_path):
    def fresh(seed: int = 3) -> StreamedResiduals:
        return StreamedResiduals(model, windows, [0, 1], seed=seed, name="m", pool=Pool(POOL))

    training = TrainingConfig(n_tokens=40_000, batch=128, scale_sample=300)
    options = {
        "config": relu.Settings(d_sae=64, l1=1.0),
        "training": training,
        "model": "m",
        "on": Place(workers=1),
    }
    whole = train(fresh(), **options)["sae"]
    file = tmp_path / "checkpoint.safetensors"

    def kill(progress) -> None:
        if progress.tokens_done > 20_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(fresh(), **options, checkpoint=Checkpoint(file, 1), progress=kill)
    with pytest.raises(InputError, match="stream differ"):
        train(fresh(seed=4), **options, checkpoint=Checkpoint(file))
    reports = []
    resumed = train(fresh(), **options, checkpoint=Checkpoint(file), progress=reports.append)["sae"]
    assert len(reports) == 2  # of three chunks: it did not start again
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a.W_enc, b.W_enc) and torch.equal(a.W_dec, b.W_dec)
        assert torch.equal(a.b_enc, b.b_enc)


def test_the_fingerprint_changes_with_the_stream(model, windows):
    def of(changed: LanguageModel = model, text: TokenWindows = windows, **options: object) -> str:
        given = {"seed": 3, "name": "m", "pool": Pool(POOL)} | options
        return StreamedResiduals(changed, text, **given).fingerprint  # type: ignore[arg-type]

    assert of() == of() == of(layers=[1])
    weight = model.hf.get_parameter("gpt_neox.final_layer_norm.bias")
    before = weight.data.clone()
    weight.data += 1.0
    retrained = of()
    weight.data = before
    prints = [
        of(),
        retrained,
        of(text=told_apart(seed=2)),
        of(seed=4),
        of(name="n"),
        of(key="revision b"),
        of(pool=Pool(POOL + 1)),
        of(pool=Pool(POOL, torch.bfloat16)),
    ]
    assert len(set(prints)) == len(prints)


def test_half_precision_is_the_rounded_stream_in_half_the_memory(source, model, windows):
    half = StreamedResiduals(model, windows, seed=3, name="m", pool=Pool(POOL, torch.bfloat16))
    for a, b in zip(half.read(100, 700), source.read(100, 700), strict=True):
        assert a.dtype == torch.bfloat16 and torch.equal(a, b.bfloat16())
    assert 2 * half.memory_bytes == source.memory_bytes


def test_memory_is_that_of_one_pool(source):
    source.read(0, 3 * source.n_tokens)
    held = sum(rows.untyped_storage().nbytes() for rows in source._rows)
    assert held == source.memory_bytes <= (POOL + CONTEXT) * 4 * 128 * 4


def test_a_part_read_earlier_stays_as_it_was(source):
    """Pools share their memory: what was read is a copy."""
    first = source.read(0, 50)
    kept = [layer.clone() for layer in first]
    source.read(source.n_tokens - 50, 50)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_passes_use_the_threads_of_the_beginning(source, monkeypatch):
    """Training reads with torch on one thread; the model must not run so."""
    during = []
    name = "homolog.features.streamed.fill_residuals"
    monkeypatch.setattr(name, lambda *arguments: during.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    wide = StreamedResiduals(source.model, source.windows, seed=3, pool=Pool(POOL))
    torch.set_num_threads(1)
    wide.read(0, 10)
    assert during == [2] and torch.get_num_threads() == 1


def test_more_memory_than_half_of_the_machine_is_refused(model, windows, monkeypatch):
    monkeypatch.setattr("homolog.features.streamed.machine", lambda: {"memory_bytes": 2_000_000})
    with pytest.raises(
        InputError, match=r"pool_tokens is 500, .* Give \d+ or fewer, bfloat16"
    ) as caught:
        StreamedResiduals(model, windows, seed=0, pool=Pool(POOL))
    fitting = int(caught.value.remedy.split()[1])
    assert (
        StreamedResiduals(model, windows, seed=0, pool=Pool(fitting - CONTEXT)).memory_bytes
        <= 1_000_000
    )
    StreamedResiduals(model, windows, [0], seed=0, pool=Pool(POOL))


@pytest.mark.parametrize("layers", [[4], [], [0, -1]])
def test_layers_that_are_not_there_are_named(model, windows, layers: list[int]):
    shown = str(layers).replace("[", r"\[")
    with pytest.raises(InputError, match=f"layers is {shown}, but zoo:transformer-s0 has 0 to 3"):
        StreamedResiduals(model, windows, layers, seed=0)


def test_pools_that_cannot_be_are_named():
    with pytest.raises(InputError, match="pool_tokens is 0, but a pool holds a token or more"):
        Pool(0)
    with pytest.raises(InputError, match="a pool is float32 or bfloat16"):
        Pool(dtype=torch.float16)


@pytest.mark.parametrize("pool", [1, 40, 10**9])
def test_pools_of_any_size_serve_all_tokens(model, windows, captured, pool: int):
    source = StreamedResiduals(model, windows, seed=0, pool=Pool(pool))
    read: Sequence[torch.Tensor] = source.read(0, source.n_tokens)
    assert sorted(identify(read[3], captured[3]).tolist()) == list(range(source.n_tokens))
