"""Features written shard by shard: the same as all at once, also after kills and damage."""

from __future__ import annotations

import doctest
import functools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.features.helpers import BATCH, CAPTURE, contents, memory, residual_sites, stream

from homolog import features
from homolog.corpus import TokenWindows
from homolog.dictionaries import SparseAutoencoder
from homolog.errors import InputError
from homolog.features import (
    Target,
    capture,
    close_features,
    cut_shards,
    encode_shard,
    load_features,
    open_features,
    store,
    write_features,
)
from homolog.matching import max_pearson

LAYERS = (0, 2)
LABELS = ("sae", "seed1")
N_WINDOWS = 26
pytestmark = pytest.mark.usefixtures("small_passes")


@pytest.fixture(scope="module")
def windows() -> TokenWindows:
    return stream(N_WINDOWS, seed=0)


@pytest.fixture(scope="module")
def residuals(model, windows, small_passes) -> list[torch.Tensor]:
    return capture(model, windows, residual_sites(model))


@pytest.fixture(scope="module")
def dictionaries(residuals) -> dict[tuple[str, int], SparseAutoencoder]:
    """Random directions that fire on some 2 % of the tokens each."""
    made = {}
    for number, (label, layer) in enumerate((label, layer) for label in LABELS for layer in LAYERS):
        x = residuals[layer]
        W = torch.randn(x.shape[1], 600, generator=torch.Generator().manual_seed(number))
        b_dec = x.mean(0)
        b_enc = -torch.quantile((x - b_dec) @ W, 0.98, dim=0)
        made[label, layer] = SparseAutoencoder(W, b_enc, W.T.contiguous(), b_dec)
    return made


def targets(folder: Path, dictionaries, key: str = "weights") -> list[Target]:
    return [
        Target(
            folder / label / str(layer),
            "transformer-s0",
            layer,
            label,
            f"{key} {label} {layer}",
            functools.partial(dictionaries.__getitem__, (label, layer)),
        )
        for label, layer in dictionaries
    ]


def same_matrix(a, b) -> bool:
    names = ("indptr", "indices", "data")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names) and a.shape == b.shape


@pytest.mark.parametrize("batches", [1, 3, 100])
def test_shards_give_what_all_at_once_gives(
    tmp_path, model, windows, residuals, dictionaries, batches
):
    done: list[int] = []
    written = write_features(
        model,
        windows,
        targets(tmp_path, dictionaries),
        memory=memory(model, batches),
        advance=done.append,
    )
    n_shards = -(-N_WINDOWS // BATCH // batches) if batches < 100 else 1
    assert len(list(written[0].folder.glob("part-*"))) == n_shards
    assert sum(done) == n_shards * len(written)
    for stored in written:
        sae = dictionaries[stored.label, stored.layer]
        whole = sae.encode_sparse(residuals[stored.layer])
        assert 0.01 < whole.nnz / np.prod(whole.shape) < 0.04
        loaded = stored.load()
        assert same_matrix(loaded.matrix, whole)
        np.testing.assert_array_equal(loaded.document, windows.token_document)
        np.testing.assert_array_equal(stored.document, windows.token_document)
        assert (loaded.stream_hash, loaded.name) == (windows.hash, stored.name)
        assert (stored.n_tokens, stored.n_features) == whole.shape
        # to the last bit, however the stream was cut
        for name, values in vars(loaded.statistics).items():
            np.testing.assert_array_equal(getattr(stored.statistics, name), values, err_msg=name)
        dense = whole.toarray().astype(np.float64)
        np.testing.assert_allclose(stored.statistics.var, dense.var(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(stored.statistics.n_active, (dense > 0).sum(axis=0))


def test_opening_reads_the_manifest_alone(tmp_path, model, windows, dictionaries):
    folder = write_features(model, windows, targets(tmp_path, dictionaries))[0].folder
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_suffix(".away"))
    stored = open_features(folder)
    assert (stored.n_features, stored.manifest["product"]) == (600, stored.manifest["product"])
    with pytest.raises(InputError, match=r"part-00000\.safetensors|document\.safetensors"):
        stored.load()


@pytest.mark.parametrize("fatal", [1, 6, 13, 30])
def test_a_kill_loses_at_most_the_shard_in_work(
    tmp_path, model, windows, dictionaries, monkeypatch, fatal
):
    options = {"memory": memory(model, 1)}
    write_features(model, windows, targets(tmp_path / "whole", dictionaries), **options)

    written = 0

    def dying(path, arrays, key, real=store.write_part):
        nonlocal written
        written += 1
        if written == fatal:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).with_name(f".partial-1-{Path(path).name}").write_bytes(b"half")
            raise KeyboardInterrupt
        return real(path, arrays, key)

    passes = []

    def counted(*args, real=store.capture_residuals):
        passes.append(args)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_part", dying)
        patch.setattr("homolog.features.files.write_part", dying)
        patch.setattr(store, "capture_residuals", counted)
        with pytest.raises(KeyboardInterrupt):
            write_features(model, windows, targets(tmp_path / "killed", dictionaries), **options)
        written = -1000
        write_features(model, windows, targets(tmp_path / "killed", dictionaries), **options)
    n_shards = -(-N_WINDOWS // BATCH)
    assert len(passes) <= n_shards + 1
    for partial in (tmp_path / "killed").rglob(".partial-*"):  # the run folder sweeps these
        partial.unlink()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_damaged_parts_are_named_and_only_they_are_made_again(
    tmp_path, model, windows, dictionaries, caplog
):
    wanted, options = targets(tmp_path, dictionaries), {"memory": memory(model, 2)}
    write_features(model, windows, wanted, **options)
    before = contents(tmp_path)
    damaged = [
        tmp_path / "sae" / "2" / "part-00001.safetensors",
        tmp_path / "seed1" / "0" / "part-00003.safetensors",
    ]
    for path in damaged:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    others = set(tmp_path.rglob("part-*")) - set(damaged)
    times = {path: path.stat().st_mtime_ns for path in others}
    with caplog.at_level(logging.WARNING, "homolog"):
        write_features(model, windows, wanted, **options)
    assert all(any(str(path) in message for message in caplog.messages) for path in damaged)
    assert contents(tmp_path) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_other_weights_or_another_cut_are_never_mixed(
    tmp_path, model, windows, residuals, dictionaries
):
    write_features(model, windows, targets(tmp_path, dictionaries), memory=memory(model, 1))
    others = {name: dictionaries[("sae", name[1])] for name in dictionaries}
    written = write_features(
        model, windows, targets(tmp_path, others, "others"), memory=memory(model, 3)
    )
    for stored in written:
        sae = others[stored.label, stored.layer]
        assert same_matrix(stored.load().matrix, sae.encode_sparse(residuals[stored.layer]))
        assert len(list(stored.folder.glob("part-*"))) == 3


def test_shards_may_be_done_in_any_order_by_anyone(tmp_path, model, windows, dictionaries):
    write_features(
        model, windows, targets(tmp_path / "in-order", dictionaries), memory=memory(model, 2)
    )
    shards = cut_shards(windows, model, memory(model, 2))
    wanted = targets(tmp_path / "dealt", dictionaries)
    with pytest.raises(InputError, match=r"part-00000\.safetensors.*must be there"):
        close_features(windows, shards, wanted[0], "float32")
    for shard in reversed(shards):
        for target in wanted:
            encode_shard(model, windows, shard, [target])
            encode_shard(model, windows, shard, [target])
    product = open_features(tmp_path / "in-order" / "sae" / "0").manifest["product"]
    for target in wanted:
        close_features(windows, shards, target, product)
    assert contents(tmp_path / "dealt") == contents(tmp_path / "in-order")


def test_shards_keep_to_the_memory(model, windows):
    for batches in (1, 2, 5):
        shards = cut_shards(windows, model, memory(model, batches) + 1000)
        assert {shard.last - shard.first for shard in shards[:-1]} <= {batches * BATCH}
        assert [shard.number for shard in shards] == list(range(len(shards)))
        tokens = np.concatenate([shard.of(windows).tokens for shard in shards])
        assert np.array_equal(tokens, windows.tokens)
    assert cut_shards(windows, model, 1)[0].last == BATCH  # never less than one pass
    assert memory(model, 100) < CAPTURE.SHARD_BYTES and len(cut_shards(windows, model)) == 1


def test_the_precision_is_chosen_logged_and_recorded(
    tmp_path, model, windows, dictionaries, monkeypatch, caplog
):
    files = {}
    for native in (True, False):
        monkeypatch.setattr(
            "homolog.dictionaries.hardware.has_native_bfloat16", lambda native=native: native
        )
        with caplog.at_level(logging.INFO, "homolog"):
            wanted = targets(tmp_path / str(native), dictionaries)
            stored = write_features(model, windows, wanted)[0]
        files[stored.manifest["product"]] = contents(stored.folder)
        assert f"encoder products in {'bfloat16' if native else 'float32'}" in caplog.text
    half, full = files["bfloat16"], files["float32"]
    assert half["statistics.safetensors"] == full["statistics.safetensors"]


def test_mppc_does_not_move_with_the_precision(residuals, dictionaries):
    a, b = dictionaries["sae", 0], dictionaries["sae", 2]
    reference = []
    for sae, x in ((a, residuals[0]), (b, residuals[2])):
        pre = (x.double() - sae.b_dec.double()) @ sae.W_enc.double() + sae.b_enc.double()
        reference.append(torch.relu(pre).numpy())
    expected = max_pearson(*reference)
    for precision in ("bfloat16", "float32"):
        best = max_pearson(
            a.encode_sparse(residuals[0], precision), b.encode_sparse(residuals[2], precision)
        )
        for side, wanted in ((best.a_to_b, expected.a_to_b), (best.b_to_a, expected.b_to_a)):
            assert np.isfinite(wanted.r).mean() > 0.9
            # bfloat16 features would need 1e-3
            assert np.nanmax(np.abs(side.r - wanted.r)) < 1e-5


def test_what_cannot_be_encoded_is_named(tmp_path, model, windows, dictionaries, monkeypatch):
    narrow = SparseAutoencoder(torch.ones(8, 4), torch.zeros(4), torch.ones(4, 8), torch.zeros(8))
    with pytest.raises(InputError, match=r"dictionary 'sae' of transformer-s0, layer 0.*128 wide"):
        write_features(model, windows, targets(tmp_path, {("sae", 0): narrow}))

    def broken(*args, real=store.capture_residuals):
        captured = real(*args)
        captured[2][77, 5] = float("nan")
        return captured

    monkeypatch.setattr(store, "capture_residuals", broken)
    with pytest.raises(
        InputError, match=r"residuals of transformer-s0, layer 2, in shard 0.*token 77"
    ):
        write_features(model, windows, targets(tmp_path, dictionaries))
    with pytest.raises(InputError, match="manifest"):
        load_features(tmp_path / "sae" / "2")


def test_the_example_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = doctest.testmod(features)
    assert ran.attempted > 10 and ran.failed == 0
