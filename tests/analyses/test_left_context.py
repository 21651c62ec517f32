"""Context that features need: a GPT-2 set by hand, slow recomputation, covers, curves by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from transformers import GPT2Config, GPT2LMHeadModel

from homolog import load
from homolog.analyses.left_context.measure import (
    CONTEXT_SCHEMA,
    context_tokens,
    donors,
    left_context,
)
from homolog.analyses.left_context.rows import choose_rows, cut_sizes, tokens_to_run
from homolog.analyses.stream import place_of
from homolog.corpus import TokenWindows
from homolog.dictionaries import SparseAutoencoder
from homolog.errors import InputError
from homolog.features import capture_residuals
from homolog.models.gpt2 import GPT2

VOCABULARY, CONTEXT, BACK = 12, 16, 3
PLACES = CONTEXT


def looking_back() -> GPT2:
    """One block that copies the token `BACK` positions earlier.

    Channels are tokens, positions and the copied token.
    """
    width = 2 * VOCABULARY + PLACES
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=width,
        n_layer=1,
        n_head=1,
        n_inner=4,
        n_positions=PLACES,
        bos_token_id=0,
        eos_token_id=0,
    )
    hf = GPT2LMHeadModel(config).eval().requires_grad_(False)
    token, place, copied = (
        slice(0, VOCABULARY),
        slice(VOCABULARY, VOCABULARY + PLACES),
        slice(VOCABULARY + PLACES, width),
    )
    for parameter in hf.transformer.h[0].parameters():
        parameter.zero_()
    block = hf.transformer.h[0]
    block.ln_1.weight.fill_(1.0)
    hf.transformer.wte.weight.zero_()
    hf.transformer.wte.weight[:, token] = torch.eye(VOCABULARY)
    hf.transformer.wpe.weight.zero_()
    hf.transformer.wpe.weight[:, place] = torch.eye(PLACES)
    query, key, value = block.attn.c_attn.weight.view(width, 3, width).unbind(1)
    query[place, place] = 100 * torch.diag(
        torch.ones(PLACES - BACK), -BACK
    )  # position p asks for p - BACK
    key[place, place] = torch.eye(PLACES)
    value[token, copied] = torch.eye(VOCABULARY)
    block.attn.c_proj.weight.copy_(torch.eye(width))
    hf.set_attn_implementation("eager")
    return GPT2("looking back", hf)


def reading(model: GPT2) -> SparseAutoencoder:
    """A feature for each token of the vocabulary as the current one, and as the copied one.

    Of 40 channels two are 1, so the layer norm makes a copied channel 4.6 higher than the others,
    4.2 above their mean.
    """
    W = torch.zeros(model.d_model, 2 * VOCABULARY)
    W[:VOCABULARY, :VOCABULARY] = torch.eye(VOCABULARY)
    W[-VOCABULARY:, VOCABULARY:] = torch.eye(VOCABULARY) - 1 / VOCABULARY
    b = torch.tensor([-0.5] * VOCABULARY + [-3.5] * VOCABULARY)
    return SparseAutoencoder(W, b, W.T.contiguous(), torch.zeros(model.d_model))


def random_windows(
    n: int, context: int, tokens: int, seed: int, masked: float = 0.1
) -> TokenWindows:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(1, tokens, (n, context)).astype(np.int32)
    document = (np.arange(n * context) // 40).reshape(n, context).astype(np.int32)
    return TokenWindows(
        drawn, document, rng.random((n, context)) > masked, tokenizer_fingerprint="f"
    )


def encoded(model, windows: TokenWindows, sae: SparseAutoencoder, layer: int) -> csr_array:
    return sae.encode_sparse(capture_residuals(model, windows, [layer])[layer], "float32")


def test_a_feature_of_the_current_token_needs_one_and_one_of_the_token_three_back_needs_four():
    model, windows = looking_back(), random_windows(24, CONTEXT, VOCABULARY // 2, 1)
    windows.tokens[1::2] += (
        VOCABULARY // 2
    )  # the next window, whose start is put before the cut, has other tokens
    windows.document[:] = np.arange(24)[:, None]
    sae = reading(model)
    matrix = encoded(model, windows, sae, 0)
    rows = choose_rows(lambda layer: matrix, [0], windows, per_feature=3)
    rows = rows[
        place_of(windows, rows)[1] >= 8
    ]  # every cut of 1, 2, 4 and 8 tokens takes something away
    table = left_context(model, windows, rows, {0: sae}, lambda layer: matrix)
    kept = np.array(table["kept"].to_list())
    alive = table["n_positions"].to_numpy() > 0
    current = alive & (np.arange(2 * VOCABULARY) < VOCABULARY)
    copied = alive & ~current
    assert current.sum() == copied.sum() == 10  # tokens 0 and 6 are nowhere
    assert np.allclose(kept[current], 1, atol=1e-6)
    assert np.allclose(
        kept[copied], [0, 0, 1, 1], atol=1e-4
    )  # 1, 2, 4, 8 tokens: three back is the fourth
    found = table["context_tokens"].to_numpy()
    assert np.allclose(found[current], 1.0)
    assert np.allclose(
        found[copied], 2 * 2**0.8, atol=1e-3
    )  # four fifths of the way from 2 to 4, in log n
    assert np.isnan(found[~alive]).all() and np.isnan(kept[~alive]).all()


@pytest.mark.parametrize("name", ["zoo:transformer-s0", "zoo:mamba-s0"])
def test_each_position_and_size_run_alone_gives_the_same(name, monkeypatch):
    model, windows = load(name), random_windows(5, 40, 500, 2)
    layers = [0, model.n_layers - 1]
    saes = {}
    for layer in layers:
        W = (
            torch.randn(model.d_model, 40, generator=torch.Generator().manual_seed(layer))
            / model.d_model**0.5
        )
        saes[layer] = SparseAutoencoder(
            W, torch.full((40,), -0.2), W.T.contiguous(), torch.zeros(model.d_model)
        )
    matrices = {layer: encoded(model, windows, saes[layer], layer) for layer in layers}
    rows = np.array([0, 19, 41, 117])
    with monkeypatch.context() as patch:
        seen, run = [], model.run

        def counted(tokens, **more):
            seen.append(tokens.numel())
            return run(tokens, **more)

        patch.setattr(model, "run", counted)
        table = left_context(model, windows, rows, saes, matrices.__getitem__)
    assert sum(seen) == tokens_to_run(windows, rows).sum()
    window, position = place_of(windows, rows)
    for layer in layers:
        reference = matrices[layer][rows].toarray().astype(np.float64)
        for number, size in enumerate(cut_sizes(40)):
            kept = np.zeros(40)
            for t, (w, p) in enumerate(zip(window, position, strict=True)):
                donor = (w + 1) % 5
                while windows.document[w, p] in windows.document[donor, :32]:
                    donor = (donor + 1) % 5
                cut = [
                    *windows.tokens[donor, : min(32, 40 - size)],
                    *windows.tokens[w, max(0, p + 1 - size) : p + 1],
                ]
                run = model.run(torch.tensor([cut]), capture=[f"resid.{layer}"])
                again = saes[layer].encode(run[f"resid.{layer}"][0, -1:])[0].double().numpy()
                kept += reference[t] if p + 1 <= size else np.minimum(again, reference[t])
            total = reference.sum(0)
            own = table.filter(table["layer"] == layer)["kept"].to_list()
            mine = np.array([row[number] for row in own])
            assert np.isnan(mine[total == 0]).all()
            assert np.allclose(
                mine[total > 0], (kept / np.where(total, total, 1))[total > 0], atol=1e-5
            )


def test_curves_by_hand():
    sizes = [1, 2, 4, 8]
    kept = np.array(
        [
            [0.9, 0.9, 0.9, 0.9],  # the token alone
            [0.4, 0.6, 1.0, 1.0],  # half way from 2 to 4
            [0.9, 0.7, 0.9, 0.9],  # kept, lost again: from 2 on, half way to 4
            [0.0, 0.0, 0.0, 0.6],  # half way from 8 to the context of 16
            [np.nan] * 4,
        ]
    ).T
    found = context_tokens(sizes, kept, 16)
    assert np.allclose(found[:4], [1, 2 * 2**0.5, 2 * 2**0.5, 8 * 2**0.5])
    assert np.isnan(found[4])


def test_sizes_stay_below_the_context():
    assert cut_sizes(1) == []
    assert cut_sizes(2) == [1]
    assert cut_sizes(16) == [1, 2, 4, 8]
    assert cut_sizes(17) == [1, 2, 4, 8, 16]


def test_the_cover_serves_every_alive_feature_with_few_rows():
    rng = np.random.default_rng(3)
    windows = random_windows(40, 32, 100, 3)
    n = int(windows.mask.sum())
    layers = []
    for share in (0.1, 0.2):
        dense = rng.random((n, 60)) * (rng.random((n, 60)) < share * rng.random(60))
        dense[:, 7] = 0
        dense[:, 8] = 0
        dense[5, 8] = 1.0  # alive on one token, in the first half of a window
        layers.append(csr_array(dense.astype(np.float32)))
    rows = choose_rows(layers.__getitem__, [0, 1], windows, per_feature=3)
    assert (np.diff(rows) > 0).all()
    for matrix in layers:
        n_active, have = np.diff(matrix.tocsc().indptr), np.diff(matrix[rows].tocsc().indptr)
        assert (have >= np.minimum(n_active, 3)).all()
        assert have[7] == 0 and have[8] == 1
    assert len(rows) < 120  # one feature at a time would take 2 x 58 x 3 rows
    late = place_of(windows, rows)[1] >= 16
    assert late.mean() > 0.8
    assert np.array_equal(rows, choose_rows(layers.__getitem__, [0, 1], windows, per_feature=3))
    few = choose_rows(layers.__getitem__, [0, 1], windows, per_feature=3, most_tokens=3000)
    assert set(few) < set(rows) and 2700 < tokens_to_run(windows, few).sum() <= 3000


def test_a_stream_of_other_windows_is_refused():
    windows = random_windows(4, 8, 50, 4)
    with pytest.raises(InputError, match="the windows have"):
        choose_rows(lambda layer: csr_array((5, 3), dtype=np.float32), [0], windows)
    with pytest.raises(InputError, match="not masked"):
        place_of(windows, np.array([32]))


def test_unrelated_text_is_of_another_document():
    windows = random_windows(4, 40, 50, 5)
    windows.document[:] = np.array([0, 1, 1, 2])[:, None]
    assert donors(windows, np.array([0, 1, 2, 3]), np.array([9, 9, 9, 9])).tolist() == [1, 3, 3, 0]
    windows.document[:] = 7
    assert donors(windows, np.array([0]), np.array([9])).tolist() == [-1]


def test_text_of_one_document_leaves_left_context_undefined():
    model, windows = load("zoo:mamba-s0"), random_windows(3, 16, 50, 5)
    windows.document[:] = 7
    matrix = csr_array(np.ones((windows.tokens.size, 2), np.float32))
    dictionary = SparseAutoencoder(
        *(
            torch.zeros(*shape)
            for shape in ((model.d_model, 2), (2,), (2, model.d_model), (model.d_model,))
        )
    )
    table = left_context(model, windows, np.arange(4), {0: dictionary}, lambda layer: matrix)
    assert dict(table.schema) == CONTEXT_SCHEMA and table["n_positions"].to_list() == [0, 0]
    assert table["context_tokens"].is_nan().all() and table["kept"].explode().is_nan().all()
