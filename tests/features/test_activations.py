"""Feature activations: statistics by hand, files that survive, damage that is named, streams apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse
import torch

from homolog.errors import InputError
from homolog.features import DenseFeatures, SparseFeatures, check_same_stream, encode, load_features

VALUES = np.array([[0, 2, 0], [0, 4, 0], [0, 0, 3], [0, 0, 3]], dtype=np.float32)
DOCUMENT = np.array([0, 0, 1, 1], dtype=np.int32)


def sparse(stream: str = "abc", label: str = "sae") -> SparseFeatures:
    return SparseFeatures(scipy.sparse.csr_array(VALUES), stream, DOCUMENT, "mamba-s0", 2, label)


@pytest.mark.parametrize("kind", [SparseFeatures, DenseFeatures])
def test_statistics_by_hand(kind):
    statistics = kind(VALUES, "abc", DOCUMENT, "m", 0).statistics
    assert statistics.n_active.tolist() == [0, 2, 2]
    assert statistics.freq.tolist() == [0, 0.5, 0.5]
    assert statistics.mean.tolist() == [0, 1.5, 1.5]
    assert statistics.var.tolist() == [0, (4 + 16) / 4 - 2.25, (9 + 9) / 4 - 2.25]
    assert statistics.max.tolist() == [0, 4, 3]


def test_maximum_of_an_always_negative_feature():
    matrix = scipy.sparse.csr_array(np.array([[-1.0, -1], [-2, 0]]))
    assert SparseFeatures(matrix, "s", DOCUMENT[:2], "m", 0).statistics.max.tolist() == [-1, 0]


@pytest.mark.parametrize("tokens_per_part", [1, 3, 100])
@pytest.mark.parametrize("kind", [SparseFeatures, DenseFeatures])
def test_saved_and_loaded_are_equal(tmp_path, kind, tokens_per_part):
    saved = kind(VALUES, "abc", DOCUMENT, "mamba-s0", 2, "seed1")
    loaded = load_features(saved.save(tmp_path / "f", tokens_per_part))
    assert type(loaded) is kind and loaded.name == "mamba-s0@seed1"
    assert (loaded.stream_hash, loaded.model, loaded.layer, loaded.label) == (
        "abc",
        "mamba-s0",
        2,
        "seed1",
    )
    dense = loaded.matrix if kind is DenseFeatures else loaded.matrix.toarray()
    np.testing.assert_array_equal(dense, VALUES)
    np.testing.assert_array_equal(loaded.document, DOCUMENT)
    assert dense.dtype == np.float32
    assert len(list((tmp_path / "f").glob("part-*.safetensors"))) == -(-4 // tokens_per_part)


def test_same_features_same_bytes(tmp_path):
    one, two = sparse().save(tmp_path / "1"), sparse().save(tmp_path / "2")
    assert (one / "part-00000.safetensors").read_bytes() == (
        two / "part-00000.safetensors"
    ).read_bytes()
    assert (one / "manifest.json").read_text() == (two / "manifest.json").read_text()


def test_damage_is_named(tmp_path):
    folder = sparse().save(tmp_path / "f", 2)
    part = folder / "part-00001.safetensors"
    damaged = bytearray(part.read_bytes())
    damaged[-1] ^= 1
    part.write_bytes(damaged)
    with pytest.raises(InputError, match=r"part-00001\.safetensors.*SHA-256.*damaged"):
        load_features(folder)
    part.unlink()
    with pytest.raises(InputError, match=r"part-00001\.safetensors.*readable"):
        load_features(folder)
    (folder / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="manifest"):
        load_features(folder)
    with pytest.raises(InputError, match="manifest"):
        load_features(tmp_path / "nowhere")


def test_a_newer_format_is_refused(tmp_path):
    folder = sparse().save(tmp_path / "f")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 9}))
    with pytest.raises(InputError, match="format 2 is read"):
        load_features(folder)


def test_different_streams_are_never_compared():
    check_same_stream([sparse(), sparse(label="seed1")])
    with pytest.raises(InputError, match=r"'abc', 'xyz'.*same tokens"):
        check_same_stream([sparse(), sparse("xyz")])


def test_document_of_another_length_is_refused():
    with pytest.raises(InputError, match="document"):
        SparseFeatures(VALUES, "abc", DOCUMENT[:3], "m", 0)


class Shifted:
    """relu(x - 1): a dictionary simple enough to read off."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x - 1)


def test_encode_in_batches_equals_encoding_at_once():
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    found = encode(
        Shifted(),
        [x[:20], x[20:]],
        stream_hash="s",
        document=np.zeros(50, np.int32),
        model="m",
        layer=1,
        batch=8,
    )
    np.testing.assert_array_equal(found.matrix.toarray(), torch.relu(x - 1).numpy())
    assert found.matrix.has_canonical_format and found.matrix.dtype == np.float32


def test_encode_names_what_is_wrong():
    x = torch.ones(4, 3)
    options = {"stream_hash": "s", "document": DOCUMENT, "model": "m", "layer": 1}
    with pytest.raises(InputError, match="3, but one row is needed for each of the 4"):
        encode(Shifted(), [x[:3]], **options)
    x[2, 1] = float("inf")
    with pytest.raises(InputError, match=r"m layer 1.*token 2"):
        encode(Shifted(), [x], batch=1, **options)
