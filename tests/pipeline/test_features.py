"""Parts of a study that are arithmetic."""

import numpy as np
import pytest

from homolog.corpus import TokenWindows
from homolog.features import DenseFeatures, load_features
from homolog.pipeline.features import share_by_token, store_current_token


def windows(tokens):
    array = np.array(tokens, np.int32)
    return TokenWindows(array, np.zeros_like(array), array > 0, tokenizer_fingerprint="f")


def test_the_share_by_token_is_between_over_total_variance(tmp_path):
    text = windows([[0, 1, 1, 2, 2]])  # the first token is masked
    matrix = np.array(
        [[1.0], [3.0], [5.0], [7.0]]
    )  # means by token 2 and 6, of all 4: between 4, total 5
    layer = DenseFeatures(matrix, text.hash, text.token_document, "m", 0)
    assert share_by_token([layer.save(tmp_path)], text) == pytest.approx(4 / 5)


def test_the_current_token_has_one_feature_a_token(tmp_path):
    store_current_token(tmp_path, windows([[0, 3, 1], [3, 0, 2]]))
    features = load_features(tmp_path)
    assert features.matrix.toarray().tolist() == [
        [0, 0, 0, 1],
        [0, 1, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 1, 0],
    ]
