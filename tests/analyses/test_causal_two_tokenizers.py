"""Causal agreement across tokenizers: one model under two vocabularies, and an oracle by texts."""

from __future__ import annotations

import copy
import json

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array
from tests.analyses.test_causal import F, firing, matches_of, saying, stream, writing
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from homolog import Add, load
from homolog.analyses.causal.agreement import agreement
from homolog.analyses.causal.effects import MOMENTS, measure_effects
from homolog.analyses.causal.forward import ProbedModel
from homolog.analyses.causal.measure import causal_words
from homolog.analyses.causal.pairs import choose_pairs
from homolog.analyses.causal.two_tokenizers import (
    SHARED,
    Stops,
    TwoTokenizers,
    renormalised,
    tokens_in_common,
)
from homolog.corpus import TokenWindows, read_documents, token_texts
from homolog.corpus.together import Alignment, pack_together
from homolog.models import LanguageModel
from homolog.record.tables import CAUSAL, CAUSAL_AUC, LOSS_RECOVERED
from homolog.record.tables.causal import LATER

KEPT = 600
"""Tokens of the zoo's 1,024 that the second vocabulary has."""


def with_tokens(model: LanguageModel, old: np.ndarray) -> LanguageModel:
    """The same model under a vocabulary whose token i is the model's token old[i]."""
    other = copy.deepcopy(model)
    rows = torch.from_numpy(old)
    embedding, head = other.hf.get_input_embeddings(), other.hf.get_output_embeddings()
    tied = embedding.weight is head.weight
    own = head.weight.detach()[rows]
    embedding.weight = torch.nn.Parameter(embedding.weight.detach()[rows], requires_grad=False)
    head.weight = embedding.weight if tied else torch.nn.Parameter(own, requires_grad=False)
    return other


def chosen(a: int, b: int, matrices: tuple[np.ndarray, np.ndarray], n: int = F, positions: int = 4):
    """Pairs k of A's layer and k of B's, with probes."""
    found = tuple(csr_array(matrix) for matrix in matrices)
    return choose_pairs(
        matches_of([0.99] * F, [True] * F, a, b, deeper=True),
        "A",
        "B",
        (lambda _: found[0], lambda _: found[1]),
        n_pairs=n,
        positions=positions,
    )


def test_a_permuted_vocabulary_gives_what_one_tokenizer_does() -> None:
    a, b = (load(f"zoo:{name}-s0", dtype=torch.float64) for name in ("transformer", "mamba"))
    plain = stream()
    windows = TokenWindows(
        plain.tokens, plain.document, np.ones_like(plain.mask), tokenizer_fingerprint="f"
    )
    layers, generator = (1, 5), torch.Generator().manual_seed(2)
    made = [writing(torch.randn(F, model.d_model, generator=generator)) for model in (a, b)]
    pairs, probes = chosen(*layers, (firing(windows, 3), firing(windows, 4)), n=3)
    sides = ProbedModel(a, {layers[0]: made[0]}), ProbedModel(b, {layers[1]: made[1]})
    expected = measure_effects(pairs, probes, windows, *sides)
    assert set(expected["where"]) == {"here", "later"}

    texts = token_texts(a.require_tokenizer())
    old = np.random.default_rng(0).permutation(len(texts))
    turned = TokenWindows(
        np.argsort(old)[windows.tokens].astype(np.int32),
        windows.document,
        windows.mask,
        tokenizer_fingerprint="g",
    )
    rows = np.arange(windows.n_tokens)
    two = TwoTokenizers(
        (Stops.at_rows(windows, rows), Stops.at_rows(turned, rows)),
        tokens_in_common(texts, [texts[i] for i in old]),
    )
    other = ProbedModel(with_tokens(b, old), {layers[1]: made[1]})
    found = measure_effects(pairs, probes, windows, sides[0], other, two)
    assert found.select(probes.columns).equals(expected.select(probes.columns))
    assert np.allclose(found.select(MOMENTS), expected.select(MOMENTS), rtol=1e-6, atol=1e-12)
    assert np.allclose(found.select(SHARED), 1)
    one, across = (agreement(pairs, effects) for effects in (expected, found))
    for name in ("ablate_r", "ablate_later_r", "steer_r"):
        assert np.allclose(one[name], across[name], atol=1e-6, equal_nan=True)


def fewer_tokens(tokenizer) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """A tokenizer without the later merges and with its ids turned, and its tokens' old ids."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    model = whole["model"]
    names = sorted(model["vocab"], key=model["vocab"].get)[:KEPT]
    old = np.append(0, 1 + np.random.default_rng(1).permutation(KEPT - 1))
    model["vocab"] = {names[i]: new for new, i in enumerate(old)}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    fast = Tokenizer.from_str(json.dumps(whole))
    end = tokenizer.eos_token
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=end), old


@pytest.fixture(scope="module")
def cut_twice() -> tuple:
    """A model, the same under fewer tokens, the windows of both, and how they are compared."""
    a = load("zoo:transformer-s0")
    tokenizer = a.require_tokenizer()
    fewer, old = fewer_tokens(tokenizer)
    documents = read_documents("zoo:demo")
    sides = pack_together(documents, [tokenizer, fewer], 32, n_tokens=1500)
    units = Alignment.of(*sides).units
    stops = tuple(
        Stops.at_rows(windows, rows)
        for windows, rows in zip(sides, (units.last_a, units.last_b), strict=True)
    )
    tokens = tokens_in_common(token_texts(tokenizer), token_texts(fewer))
    assert len(tokens[0].ids) == KEPT and (units.last_b > units.first_b).mean() > 0.1
    return a, with_tokens(a, old), sides, TwoTokenizers(stops, tokens), old


def test_features_that_write_the_same_tokens_are_alike_and_others_are_not(cut_twice) -> None:
    """Of a Transformer, and of a Mamba that has fewer tokens."""
    a, _, (windows, _), two, old = cut_twice
    b = with_tokens(load("zoo:mamba-s0"), old)
    n, random = len(two.stops[0].window), np.random.default_rng(1)
    fires = (0.5 + random.random((n, F))) * (random.random((n, F)) < 0.3)
    said = np.arange(100, 100 + F)
    other = np.append(said[: F // 2], np.arange(300, 300 + F // 2))  # half write something else
    new = np.argsort(old)
    last, best_last = a.n_layers - 1, b.n_layers - 1
    pairs, probes = chosen(last, best_last, (fires.astype(np.float32), fires.astype(np.float32)))
    sides = (
        ProbedModel(a, {last: writing(saying(a, said.tolist()))}),
        ProbedModel(b, {best_last: writing(saying(b, new[other].tolist()))}),
    )
    table = agreement(pairs, measure_effects(pairs, probes, windows, *sides, two))
    matched = table.filter("matched").sort("feature")
    steered, ablated = (
        matched[f"{kind}_r"].to_numpy().reshape(2, -1) for kind in ("steer", "ablate")
    )
    assert steered[0].min() > 0.8 and steered[1].max() < 0.5
    assert ablated[0].mean() > ablated[1].mean() + 0.2
    own, best = (table[f"ablate_{name}"].to_numpy() for name in SHARED)
    assert (own < 1).all() and own.mean() > 0.5 and np.allclose(best, 1)


def test_unrelated_features_do_not_agree(cut_twice) -> None:
    a, b, (windows, _), two, _ = cut_twice
    n, random = len(two.stops[0].window), np.random.default_rng(2)
    fires = (random.random((n, F)) * (random.random((n, F)) < 0.3)).astype(np.float32)
    generator = torch.Generator().manual_seed(3)
    made = [writing(torch.randn(F, a.d_model, generator=generator)) for _ in range(3)]
    pairs, probes = chosen(1, 1, (fires, fires), positions=8)
    means = []
    for best in (made[1], made[0]):
        sides = ProbedModel(a, {1: made[0]}), ProbedModel(b, {1: best})
        table = agreement(pairs, measure_effects(pairs, probes, windows, *sides, two))
        means.append(table.filter("matched").select("ablate_r", "ablate_later_r").mean().row(0))
    assert np.abs(means[0]).max() < 0.2  # other directions
    assert min(means[1]) > 0.3  # the same, as the model has them after other tokens


def test_moments_are_those_of_texts_in_common_at_ends_of_units(cut_twice) -> None:
    """By dictionaries of texts, from single runs with an edit."""
    a, b, sides, two, _ = cut_twice
    n, generator = len(two.stops[0].window), torch.Generator().manual_seed(4)
    made = [writing(torch.randn(F, a.d_model, generator=generator)) for _ in range(2)]
    random = np.random.default_rng(5)
    fires = (random.random((n, F)) * (random.random((n, F)) < 0.3)).astype(np.float32)
    pairs, probes = chosen(1, 2, (fires, fires), n=1, positions=3)
    probed = ProbedModel(a, {1: made[0]}), ProbedModel(b, {2: made[1]})
    effects = measure_effects(pairs, probes, sides[0], *probed, two)
    texts = [token_texts(a.require_tokenizer())]
    texts.append([texts[0][i] for i in cut_twice[-1]])
    at_stop = [list(zip(s.window.tolist(), s.position.tolist(), strict=True)) for s in two.stops]
    assert {"here", "later"} == set(effects["where"])
    for row in effects.join(pairs, on=["pair", "control"]).iter_rows(named=True):
        unit = row["row"]
        after = range(unit + 1, min(unit + LATER, n - 1) + 1)
        same = [
            u for u in after if all(places[u][0] == places[unit][0] for places in at_stop)
        ]  # windows
        of_units = [unit] if row["where"] == "here" else same
        expected, mass = np.zeros(5), np.zeros(2)
        logs = {}
        edited = (row["feature"], row["amount"]), (row["best_feature"], row["best_amount"])
        for k, (feature, amount) in enumerate(edited):
            w, p = at_stop[k][unit]
            site = f"resid.{k + 1}"
            edit = Add(site, amount * made[k].W_dec[feature], positions=[p])
            tokens = torch.from_numpy(sides[k].tokens[[w]]).long()
            for which, edits in enumerate(([], [edit])):
                logits = (a, b)[k].run(tokens, edits=edits).logits
                assert logits is not None
                logs[k, which] = logits[0].double().log_softmax(-1).numpy()
        for u in of_units:
            found, held = [], []
            for k, which in ((0, 0), (0, 1), (1, 0), (1, 1)):
                log = logs[k, which][at_stop[k][u][1]]
                of_text = {str(t): np.exp(log[i]) for i, t in enumerate(texts[k])}
                common = [str(t) for t in texts[1]]
                held.append(sum(of_text[t] for t in common))
                found.append(np.array([of_text[t] / held[-1] for t in common]))
            weight = sum(found) / 4
            x, y = (np.log(found[i + 1]) - np.log(found[i]) for i in (0, 2))
            cov = np.cov(x, y, aweights=weight, ddof=0)
            kl = []
            for k in (0, 1):
                before, changed = (logs[k, which][at_stop[k][u][1]] for which in (0, 1))
                kl.append((np.exp(before) * (before - changed)).sum())
            expected += [cov[0, 0], cov[1, 1], cov[0, 1], *kl]
            mass += [(held[0] + held[1]) / 2, (held[2] + held[3]) / 2]
        assert np.allclose([row[name] for name in MOMENTS], expected, rtol=2e-3, atol=1e-5)
        assert np.allclose([row[name] for name in SHARED], mass / len(of_units), atol=1e-4)


def test_tokens_are_in_common_by_their_bytes() -> None:
    """ "a" twice in B, as a byte too; what has no text, or a name for one, is not in common."""
    own, best = tokens_in_common(
        [" the", "a", [0xC3], "", "<token 4>", "only A"], ["a", "<token 1>", [0xC3], " the", "a"]
    )
    assert own.ids.tolist() == [0, 1, 2] and own.others == ()
    assert best.ids.tolist() == [3, 0, 2] and best.others == ((1, 4),)
    p = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]], dtype=torch.float64)
    log, mass = renormalised(best, p.log())
    assert mass.tolist() == pytest.approx([0.8])
    assert log.exp()[0].tolist() == pytest.approx([0.15 / 0.8, 0.35 / 0.8, 0.3 / 0.8])


def test_less_than_half_in_common_is_no_agreement_and_is_said() -> None:
    ids = {"pair": [0] * 4 + [1] * 4, "control": [0] * 8, "kind": ["ablate"] * 8}
    effects = pl.DataFrame(
        ids
        | {"where": ["here"] * 8, "var": [1.0] * 8, "best_var": [1.0] * 8, "cov": [0.5] * 8}
        | {"kl": [0.1] * 8, "best_kl": [0.1] * 8}
        | {"shared": [0.9] * 8, "best_shared": [0.8] * 4 + [0.3, 0.5, 0.5, 0.5]}
    )
    pairs = CAUSAL.frame(
        [
            {"pair": k, "control": 0, "matched": True, "model": "A", "best_model": "B", "r": 0.9}
            for k in (0, 1)
        ]
    )
    pairs = pairs.select([name for name in pairs.columns if not name.startswith(("abl", "ste"))])
    table = agreement(pairs, effects)
    assert table["ablate_r"].to_list() == pytest.approx([0.5, float("nan")], nan_ok=True)
    assert table["ablate_lo"].is_nan().to_list() == [False, True]
    assert table["ablate_best_shared"].to_list() == pytest.approx([0.8, 0.45])
    assert table["ablate_n"].to_list() == [4, 4] and table["ablate_kl"].is_not_nan().all()
    here = {"model": "A", "best_model": "B", "kind": "ablate", "where": "here"}
    auc = CAUSAL_AUC.frame([here | {"above_r": 0.7, "to_r": 1.0, "n": 0}])
    (said,) = causal_words(auc, LOSS_RECOVERED.frame(), CAUSAL.frame(table))
    assert said["words"] == (
        "The tokenizers differ: effects are compared where units end, over the tokens that both "
        "vocabularies have, which hold 90% of the model's predictions and 62% of the partners'. "
        "Of 1 of 2 pairs and controls they hold less than half on a side: their agreement is "
        "undefined."
    )
