"""The table of a layer puts each measure in its column."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from tests.analyses.streams import random_features, random_stream

import homolog
from homolog.analyses.features.measure import (
    consistency,
    feature_table,
    nearest,
    promoted,
    token_statistics,
)
from homolog.corpus import TokenText, joined, token_texts
from homolog.errors import InputError

SCHEMA = {
    "model": pl.String,
    "layer": pl.Int32,
    "feature": pl.Int32,
    "n_active": pl.Int64,
    "freq": pl.Float64,
    "mean_active": pl.Float32,
    "max": pl.Float32,
    "token_entropy": pl.Float32,
    "token_r2": pl.Float32,
    "consistency": pl.Float32,
    "context_consistency": pl.Float32,
    "promoted": pl.List(pl.String),
    "suppressed": pl.List(pl.String),
    "near_feature": pl.List(pl.Int32),
    "near_cosine": pl.List(pl.Float32),
    "top_tokens": pl.List(pl.String),
}


def named(text: TokenText) -> str:
    """What a table shows of a token: in the zoo's vocabulary only single bytes are not text."""
    return text if isinstance(text, str) else "".join(f"<{byte:02X}>" for byte in text)


def test_columns_are_the_measures() -> None:
    model = homolog.load("zoo:mamba-s0")
    given = token_texts(model.tokenizer)
    windows = random_stream(0, n_windows=60, n_ids=300)
    x = random_features(windows, 9, 0)
    cut = token_statistics(x, windows, top=3)["top_tokens"][8][0]
    given[cut] = [0x20, 0xE8]  # as if it ended within a character
    texts = [" <E8>" if i == cut else named(text) for i, text in enumerate(given)]
    W_dec = torch.randn(9, model.d_model, generator=torch.Generator().manual_seed(0))
    W_dec[4] = 0
    found = feature_table(x, windows, model, W_dec, given, tokens=3, near=2, seed=5)
    assert dict(found.schema) == SCHEMA
    assert found["feature"].to_list() == list(range(9))
    assert set(found.select("model", "layer").rows()) == {("model", 2)}
    measured = token_statistics(x, windows, top=3)
    same = measured.drop("top_tokens").columns
    assert found.select(same).equals(measured.select(same), null_equal=True)
    assert " <E8>" in found["top_tokens"][8]
    assert found["top_tokens"].to_list() == [
        [texts[i] for i in ids] for ids in measured["top_tokens"].to_list()
    ]
    np.testing.assert_array_equal(found["consistency"].to_numpy(), consistency(x, windows, seed=5))
    effect, near = promoted(model, W_dec, 3), nearest(W_dec, 2)
    for feature in range(9):
        row = found.row(feature, named=True)
        if feature == 4:
            assert (
                row["promoted"]
                == row["suppressed"]
                == row["near_feature"]
                == row["near_cosine"]
                == []
            )
            continue
        assert row["promoted"] == [texts[i] for i in effect.promoted[feature]]
        assert row["suppressed"] == [texts[i] for i in effect.suppressed[feature]]
        assert row["near_feature"] == near.feature[feature].tolist()
        assert row["near_cosine"] == near.cosine[feature].tolist()


def test_pieces_make_the_text() -> None:
    tokenizer = homolog.load("zoo:transformer-s0").tokenizer
    assert tokenizer is not None
    texts = token_texts(tokenizer)
    assert len(texts) == len(tokenizer) and all(texts)
    for text in ("And he said, 42 ships <b>of</b> the line; they\n sailed.", "自 é", "\x00  🙂"):
        ids = tokenizer(text)["input_ids"]
        assert "".join(joined([texts[i] for i in ids])) == text
    assert not [t for t in texts if isinstance(t, str) and "\ufffd" in t]


def test_errors() -> None:
    model = homolog.load("zoo:mamba-s0")
    windows = random_stream(0)
    x = random_features(windows, 4, 0)
    with pytest.raises(InputError, match="there are 4 features"):
        feature_table(x, windows, model, torch.randn(5, model.d_model), ["a"] * 12)
    with pytest.raises(InputError, match="the stream has token 11"):
        feature_table(x, windows, model, torch.randn(4, model.d_model), ["a"] * 11)
