"""Feature activations: statistics by hand, files that survive, damage that is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse
from tests.features.helpers import contents

from homolog.errors import InputError
from homolog.features import DenseFeatures, SparseFeatures, check_same_stream, load_features

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
    origin = (loaded.stream_hash, loaded.model, loaded.layer, loaded.label)
    assert origin == ("abc", "mamba-s0", 2, "seed1")
    dense = loaded.matrix if kind is DenseFeatures else loaded.matrix.toarray()
    np.testing.assert_array_equal(dense, VALUES)
    np.testing.assert_array_equal(loaded.document, DOCUMENT)
    assert dense.dtype == np.float32
    assert len(list((tmp_path / "f").glob("part-*.safetensors"))) == -(-4 // tokens_per_part)


def test_same_features_same_bytes(tmp_path):
    one, two = sparse().save(tmp_path / "1"), sparse().save(tmp_path / "2")
    assert contents(one) == contents(two) and len(contents(one)) == 4


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


@pytest.mark.parametrize("lacking", ["layer", "n_features", "statistics", "sha256"])
def test_a_manifest_that_lacks_something_is_named(tmp_path, lacking):
    path = sparse().save(tmp_path / "f") / "manifest.json"
    manifest = json.loads(path.read_text())
    del (manifest["parts"][0] if lacking == "sha256" else manifest)[lacking]
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=f"features manifest is .*KeyError.'{lacking}'"):
        load_features(tmp_path / "f")


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
