"""Features, predictions and changes, against the Hugging Face modules and the run itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tests.serve.study import CLOSE, LAYERS, A, B
from transformers import AutoModelForCausalLM, AutoTokenizer

from homolog import dictionaries
from homolog.corpus import load_windows
from homolog.errors import InputError
from homolog.features import load_features
from homolog.record.run_folder import RunFolder
from homolog.serve.desk import Desk
from homolog.serve.question import MOST_CHARACTERS, Change
from homolog.zoo import catalog

TEXT = "The president of the United States said in 1921 that the people"
CHANGES = [{"times": 0}, {"times": 3.0}, {"value": 2.5}, {"value": 4, "token": 3}]


def module(name: str) -> tuple[Any, Any]:
    """The model that ships and its tokenizer, as transformers alone loads them."""
    folder = catalog.entry(name).folder
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return hf, AutoTokenizer.from_pretrained(folder)


def blocks_of(hf: Any) -> Any:
    return hf.gpt_neox.layers if hasattr(hf, "gpt_neox") else hf.backbone.layers


@torch.no_grad()
def probabilities(hf: Any, ids: list[int]) -> np.ndarray:
    return hf(torch.tensor([ids])).logits[0].double().softmax(-1).numpy()


def read(desk: Desk, text: str = TEXT) -> dict[str, Any]:
    return desk.answer("read", {"text": text})


def change(desk: Desk, model: str, layer: int, feature: int, **how: Any) -> dict[str, Any]:
    question = {"text": TEXT, "model": model, "layer": layer, "feature": feature}
    return desk.answer("change", question | how)


def strongest(desk: Desk, model: str, layer: int) -> int:
    """The feature of a layer that fires most on the text."""
    reader = desk.readers[model]
    reading = reader.read(reader.windows(TEXT, bounds=False))
    return int(reading.features[layer].sum(axis=0).argmax())


@pytest.mark.parametrize("side", [0, 1])
def test_predictions_are_those_of_transformers(desk: Desk, side: int) -> None:
    told = read(desk)["models"][side]
    hf, tokenizer = module(told["name"])
    wanted = probabilities(hf, tokenizer.encode(TEXT, add_special_tokens=False))
    assert len(told["predictions"]) == len(wanted) == len(told["tokens"])
    for shown, p in zip(told["predictions"], wanted, strict=True):
        ids = [i for i, _ in shown]
        assert [own for _, own in shown] == pytest.approx(p[ids].tolist(), rel=1e-3)
        assert min(p[ids]) >= np.sort(p)[-len(ids)] - 1e-6
        assert all(told["names"][i] == tokenizer.decode([i]) for i in ids)


@pytest.mark.parametrize("how", CHANGES, ids=str)
@pytest.mark.parametrize("model", LAYERS)
def test_a_change_is_that_of_a_hook_on_the_module(
    desk: Desk, run: RunFolder, model: str, how: dict[str, float]
) -> None:
    layer = LAYERS[model][0]
    feature = strongest(desk, model, layer)
    sae = dictionaries.load(run.sae_folder(model, layer))
    hf, tokenizer = module(model)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    seen: list[torch.Tensor] = []

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        a = sae.encode(h[0])[:, feature]
        put = torch.full_like(a, how["value"]) if "value" in how else a * how["times"]
        if "token" in how:
            put = torch.where(torch.arange(len(a)) == how["token"], put, a)
        seen.append(put)
        h = h + ((put - a)[:, None] * sae.W_dec[feature])[None]
        return (h, *output[1:]) if isinstance(output, tuple) else h

    before = probabilities(hf, ids)
    handle = blocks_of(hf)[layer].register_forward_hook(hook)
    after = probabilities(hf, ids)
    handle.remove()
    told = change(desk, model, layer, feature, **how)
    assert told["model"] == model
    assert told["activations"] == pytest.approx(seen[0].tolist(), abs=1e-4)
    moved = np.abs(after - before).sum(-1) / 2
    assert told["moved"] == pytest.approx(moved.tolist(), rel=1e-3, abs=2e-5) and moved.max() > 1e-3
    for at, rows in enumerate(told["predictions"]):
        for i, p, q in rows:
            assert p == pytest.approx(before[at, i], rel=1e-3, abs=1e-6)
            assert q == pytest.approx(after[at, i], rel=1e-3, abs=1e-6)


def test_one_times_an_activation_changes_nothing(desk: Desk) -> None:
    told = change(desk, A, 1, strongest(desk, A, 1), times=1)
    assert max(told["moved"]) < 1e-5


def test_the_other_model_and_later_questions_know_nothing_of_a_change(desk: Desk) -> None:
    before = read(desk)
    told = change(desk, A, 1, strongest(desk, A, 1), times=0)
    assert told["model"] == A
    assert read(desk) == before


@pytest.mark.parametrize("model", LAYERS)
def test_features_are_those_of_the_run(desk: Desk, run: RunFolder, model: str) -> None:
    windows = load_windows(run.windows_folder("match"))
    rows = np.append(0, np.cumsum(windows.mask.sum(axis=1)))
    reader = desk.readers[model]
    for number in (0, 5):
        reading = reader.read(windows[number : number + 1])
        for layer in LAYERS[model]:
            stored = load_features(run.feature_folder(model, layer)).matrix
            wanted = stored[rows[number] : rows[number + 1]].toarray()
            found = reading.features[layer].toarray()[reading.mask]
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
            assert found.any()


def test_links_are_the_homologs_that_fire_in_both(desk: Desk, run: RunFolder) -> None:
    """By the table of matches and dense features, feature by feature."""
    told, matrices = read(desk), {}
    for name in (A, B):
        reader = desk.readers[name]
        matrices[name] = reader.read(reader.windows(TEXT, bounds=False)).features
    main = pl.read_parquet(run.table("matches")).filter(pl.col("r") > CLOSE, comparison="main")
    wanted: list[set[tuple[str, str]]] = [set() for _ in told["units"]]
    for row in main.iter_rows(named=True):
        here = (row["model"], row["layer"], row["feature"])
        there = (row["best_model"], row["best_layer"], row["best_feature"])
        a, b = (here, there) if row["model"] == A else (there, here)
        columns = [matrices[n][layer][:, [f]].toarray()[:, 0] for n, layer, f in (a, b)]
        for at in np.flatnonzero((columns[0] > 0) & (columns[1] > 0)):
            wanted[at].add((f"{a[1]}/{a[2]}", f"{b[1]}/{b[2]}"))
    assert any(wanted)
    for unit, pairs in zip(told["units"], wanted, strict=True):
        assert unit["n_links"] == len(pairs)
        shown = {(a, b) for a, b, *_ in unit["links"]}
        assert shown <= pairs and len(shown) == min(16, len(pairs))
        at = unit["tokens"][0]
        for a, b, _, x, y in unit["links"]:
            for name, key, value in ((A, a, x), (B, b, y)):
                layer, feature = map(int, key.split("/"))
                assert value == pytest.approx(matrices[name][layer][at, feature])
        for side, name in enumerate((A, B)):
            assert unit["n"][side] == sum((m[[at]] > 0).sum() for m in matrices[name].values())


def test_the_token_that_windows_begin_with_is_read_and_not_shown(desk: Desk) -> None:
    reader = desk.readers[A]
    hf, tokenizer = module(A)
    begun = replace(reader, model=reader.model.begun("true"))
    first = begun.model.bos
    assert first is not None
    reading = begun.read(begun.windows(TEXT, bounds=False))
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    wanted = probabilities(hf, [first, *ids])[1:]
    for shown, p in zip(reading.predictions(), wanted, strict=True):
        assert [own for _, own in shown] == pytest.approx(
            p[[i for i, _ in shown]].tolist(), rel=1e-3
        )
    question = {"text": TEXT, "model": A, "layer": 1, "feature": 0, "times": 1}
    assert max(reading.changed(Change.asked(question))[1]) < 1e-5


def test_a_change_is_made_at_the_site_of_the_dictionaries(desk: Desk, run: RunFolder) -> None:
    """Here after the MLP, whose module has a hook."""
    reader = desk.readers[A]
    placed = replace(reader, model=reader.model.placed("mlp_out"))
    reading = placed.read(placed.windows(TEXT, bounds=False))
    feature = int(reading.features[1].sum(axis=0).argmax())
    question = {"text": TEXT, "model": A, "layer": 1, "feature": feature, "times": 4.0}
    rows, moved, _ = reading.changed(Change.asked(question))
    sae = dictionaries.load(run.sae_folder(A, 1))
    hf, tokenizer = module(A)

    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + (3 * sae.encode(output[0])[:, [feature]] * sae.W_dec[feature])[None]

    blocks_of(hf)[1].mlp.register_forward_hook(hook)
    after = probabilities(hf, tokenizer.encode(TEXT, add_special_tokens=False))
    assert max(moved) > 1e-3
    for at, some in enumerate(rows):
        for i, _, q in some:
            assert q == pytest.approx(after[at, i], rel=1e-3, abs=1e-6)


def test_sinks_and_special_tokens_have_no_features(desk: Desk) -> None:
    reader = desk.readers[A]
    text = "a word<|endoftext|> and more"
    plain = reader.read(reader.windows(text, bounds=False))
    norms = plain.streams.own[1][0].norm(dim=1)
    largest = int(torch.where(torch.from_numpy(plain.mask), norms, torch.zeros(())).argmax())
    sinks = replace(reader, limits={1: float(norms[largest]) * 0.999})
    reading = sinks.read(sinks.windows(text, bounds=False))
    why = [reason for _, reason in reading.tokens]
    assert why.count("special") == 1 and why[largest] == "sink"
    for matrix in reading.features.values():
        assert matrix[~reading.mask].nnz == 0 and matrix[reading.mask].nnz > 0


def test_two_tokenizers_meet_in_units_of_text(desk_of_two: Desk) -> None:
    text = "Once upon a time, a kïng 😀 of three lands"
    told = read(desk_of_two, text)
    assert not told["one_text"]
    names = [model["name"] for model in told["models"]]
    bounds = [desk_of_two.readers[name].windows(text, bounds=True).bounds[0] for name in names]  # type: ignore[index]
    written = text.encode()
    assert len(bounds[0]) != len(bounds[1])
    end = 0
    for unit in told["units"]:
        a, b, c, d = unit["tokens"]
        spans = [(bounds[0][a], bounds[0][b + 1]), (bounds[1][c], bounds[1][d + 1])]
        assert spans[0] == spans[1] and spans[0][0] == end
        end = spans[0][1]
        for side, last in enumerate((b, d)):  # what is shown up to there is the text up to there
            shown = "".join(part for part, _ in told["models"][side]["tokens"][: last + 1])
            assert shown.lstrip() == written[:end].decode(errors="ignore")
    assert end == len(written)
    for side, name in enumerate(names):  # features at the last token of a unit
        reader = desk_of_two.readers[name]
        features = reader.read(reader.windows(text, bounds=True)).features
        for unit in told["units"]:
            last = unit["tokens"][2 * side + 1]
            for key, value in unit["others"][side]:
                layer, feature = map(int, key.split("/"))
                assert value == pytest.approx(features[layer][last, feature])
    assert any(unit["n_links"] for unit in told["units"])


def test_a_text_longer_than_a_model_was_made_for_is_refused(desk_of_two: Desk) -> None:
    with pytest.raises(InputError, match=r"text is '\d+ tokens of .*64 positions. Shorten it"):
        read(desk_of_two, "an unlikely word " * 5)


@pytest.mark.parametrize(
    "text",
    [
        "<script>x</script>",
        "a\0b",
        "\u202eabc\u2066",
        "half \ud83d and \ude00",
        "😀" * 20,
        " ",
        "\n",
    ],
    ids=ascii,
)
def test_any_text_is_read(desk: Desk, text: str) -> None:
    told = read(desk, text)
    shown = "".join(part for part, _ in told["models"][0]["tokens"])
    assert (
        shown == told["text"] == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


LONG = "word " * 350


@pytest.mark.parametrize(
    ("what", "values", "words"),
    [
        ("read", {"text": ""}, "text is '', but there must be something to read"),
        ("read", {"text": "x" * (MOST_CHARACTERS + 1)}, "2,000 characters at most. Shorten it"),
        ("read", {"text": LONG}, "256 are read at most. Shorten it"),
        ("read", {"text": 3}, "text is 3"),
        ("read", {}, "text is None, but it is required"),
        ("read", [], "question is 'list', but it must be a JSON object"),
        ("read", {"text": "a", "evil": 1}, "question is 'evil', but it must be one of text, pair"),
        ("read", {"text": "a", "pair": 1}, "pair is 1, but it must be one of 0 to 0"),
        ("read", {"text": "a", "pair": -1}, "pair is -1"),
        ("write", {"text": "a"}, "question is 'write', but it must be one of read, change"),
        ("change", {"model": "x"}, "model is 'x', but it must be one of transformer-s0, mamba-s0"),
        ("change", {"layer": 2}, "layer is 2, but it must be one of 1, 3"),
        ("change", {"feature": 32}, "feature is 32, but it must be one of 0 to 31"),
        ("change", {"feature": -1}, "feature is -1"),
        ("change", {"token": 99}, "token is 99"),
        ("change", {"times": 1e9}, "times is 1000000000.0"),
        ("change", {"times": float("inf")}, "times is inf"),
        ("change", {"times": "0"}, "times is '0'"),
        ("change", {"value": 1}, "one of times and value is needed"),
        ("change", {"times": None}, "one of times and value is needed"),
    ],
)
def test_what_cannot_be_is_refused_in_words(desk: Desk, what: str, values: Any, words: str) -> None:
    if what == "change":
        values = {"text": TEXT, "model": A, "layer": 1, "feature": 0, "times": 0} | values
    with pytest.raises(InputError) as caught:
        desk.answer(what, values)
    assert words in str(caught.value)
