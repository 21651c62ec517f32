"""Streams on their principal directions: CKA and SVCCA by definition, and what is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.matching.test_spaces import cka_by_kernels, layers, svcca_by_angles

from homolog.errors import InputError
from homolog.matching import principal
from homolog.matching.principal import TAIL, principal_scores, similarity, turned
from homolog.matching.spaces import SpaceMoments


def tensors(streams: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(x) for x in streams]


def test_all_pairs_of_layers_equal_the_definitions(monkeypatch):
    monkeypatch.setattr(principal, "BLOCK", 150)
    drawn = layers(np.random.default_rng(0), 400, [5, 12, 9, 3, 20])
    a, b = drawn[:2], drawn[2:]
    found = similarity(turned(tensors(a)), turned(tensors(b)))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            svcca, kept_a, kept_b = svcca_by_angles(x, y)
            assert found.cka[i, j] == pytest.approx(cka_by_kernels(x, y), abs=1e-4)
            assert found.svcca[i, j] == pytest.approx(svcca, abs=1e-6)
            assert (found.kept_a[i], found.kept_b[j]) == (kept_a, kept_b)


def test_the_same_numbers_as_of_second_moments_chance_included():
    drawn = layers(np.random.default_rng(1), 600, [30, 8, 40])
    moments = SpaceMoments([30, 8], [40])
    moments.add(drawn[:2], drawn[2:])
    exact, found = (
        moments.similarity(),
        similarity(turned(tensors(drawn[:2])), turned(tensors(drawn[2:]))),
    )
    for name, within in (("cka", 1e-4), ("svcca", 1e-6), ("cka_chance", 1e-9)):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), atol=within)
    np.testing.assert_array_equal(found.svcca_chance, exact.svcca_chance)
    assert found.n_tokens == 600


def test_what_cka_loses_is_within_its_bound_where_the_tail_of_one_is_the_head_of_the_other():
    # Orthonormal centred columns; X has the eigenvalues 1 and a tail, Y that tail alone: what is
    # kept, K, has nothing of Y, and CKA = <E, L> / |K + E| |L| is at most the tail's share.
    raw = np.random.default_rng(2).standard_normal((300, 3))
    q = np.linalg.qr(raw - raw.mean(0))[0]
    share = 0.9 * TAIL
    x, y = q[:, :2] * np.sqrt([1, share]), q[:, 1:2]
    found = similarity([principal_scores(x)], [principal_scores(y)])
    exact = share / np.sqrt(1 + share**2)
    assert principal_scores(x).scores.shape == (300, 1)  # the tail was left out
    assert found.cka[0, 0] == pytest.approx(0, abs=1e-7)
    assert exact - found.cka[0, 0] <= TAIL
    whole = similarity(
        [principal_scores(q[:, :2] * np.sqrt([1, 1.1 * TAIL]))], [principal_scores(y)]
    )
    assert whole.cka[0, 0] == pytest.approx(1.1 * TAIL, rel=1e-4)  # above it, nothing is left out


def test_scores_have_the_lengths_of_their_eigenvalues_and_most_leaves_the_rest_out():
    x = layers(np.random.default_rng(3), 200, [12])[0] + 1e4
    whole, few = principal_scores(x), principal_scores(torch.from_numpy(x).float(), most=3)
    lengths = (whole.scores.double() ** 2).sum(0)
    np.testing.assert_allclose(lengths, whole.spectrum[: len(lengths)], rtol=1e-5)
    assert few.scores.shape == (200, 3) and len(few.spectrum) == 3 and few.kept == 3
    np.testing.assert_allclose(few.spectrum, whole.spectrum[:3], rtol=1e-3)  # float32 of 1e4


def test_a_constant_stream_and_none_at_all_are_undefined():
    x = np.random.default_rng(4).standard_normal((50, 4))
    for broken in (np.full((50, 3), 0.1), np.zeros((50, 2))):
        found = similarity([principal_scores(broken)], [principal_scores(x)])
        assert np.isnan([found.cka[0, 0], found.svcca[0, 0], found.cka_chance[0, 0]]).all()
    none = [principal_scores(x[:0])]
    assert np.isnan(similarity(none, none).cka).all()


def test_nothing_depends_on_the_number_of_threads():
    drawn = layers(np.random.default_rng(5), 3000, [64, 48, 96])
    found = []
    for threads in (1, 3):
        scores = [turned(tensors([x]), threads=threads)[0] for x in drawn]
        result = similarity(scores[:2], scores[2:], threads=threads)
        found.append((result.cka.tobytes(), result.svcca.tobytes()))
    assert found[0] == found[1]


def test_streams_are_given_up_as_they_are_turned():
    streams = tensors(layers(np.random.default_rng(6), 60, [4, 7]))
    assert len(turned(streams)) == 2 and not streams


def test_other_tokens_are_refused():
    x = principal_scores(np.ones((4, 2)))
    with pytest.raises(InputError, match=r"tokens of each layer is \[4, 3\], but row t of every"):
        similarity([x], [principal_scores(np.ones((3, 2)))])
    with pytest.raises(InputError, match="x, row 1, channel 0 is nan"):
        principal_scores(np.array([[1.0], [np.nan]]))
