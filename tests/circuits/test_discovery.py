"""Edge scores by arithmetic, against finite differences of real patches, and by sum rules."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import torch
from tests.models.helpers import tiny
from tests.reference.tiny_models import tiny_gpt_neox
from torch import Tensor

from homolog.circuits.discovery import Discovery, discover, score_edges
from homolog.circuits.edge_patching import edge_effects, validate
from homolog.circuits.edges import LOGITS, ends, position_labels, receivers, senders
from homolog.circuits.metrics import measure
from homolog.corpus.tasks import PromptPairs
from homolog.errors import InputError
from homolog.models import LanguageModel, Site
from homolog.models.architectures import ADAPTERS
from homolog.models.edits import Add, Edit, Replace

CASES = ("neox-parallel", "neox-sequential", "gpt2", "llama", "mamba", "mamba-bias", "zamba2")
TRANSFORMER = {"query_in", "key_in", "value_in", "mlp_in", LOGITS}
STATE_SPACE = {"mixer_in", "conv_taps", "state", LOGITS}
READ = {"mamba": STATE_SPACE, "mamba-bias": STATE_SPACE}
READ |= {"zamba2": TRANSFORMER | STATE_SPACE | {"embed_in"}}


def some_pairs(n: int = 3, length: int = 9) -> PromptPairs:
    """Random prompts; the corrupt ones have another token at A and at one more place."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(0, 97, (n, length), generator=generator)
    at = torch.tensor([1, 2, 4])[:n]
    corrupt, each = clean.clone(), torch.arange(n)
    corrupt[each, at] = (clean[each, at] + 5) % 97
    corrupt[:, 6] = (clean[:, 6] + 9) % 97
    positions = {"A": at, "B": at + 1, "last": torch.full((n,), length - 1)}
    return PromptPairs("test", clean, corrupt, torch.arange(n), torch.arange(n) + 20, positions)


def linear_model() -> LanguageModel:
    """One block whose head adds the stream's average over the window; no norms, a silent MLP."""
    hf = tiny_gpt_neox(
        vocab_size=5, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    )
    block = hf.gpt_neox.layers[0]
    for parameter in hf.requires_grad_(False).parameters():
        parameter.zero_()
    # queries and keys stay 0: attention is uniform
    block.attention.query_key_value.weight[8:] = torch.eye(4)
    block.attention.dense.weight.copy_(torch.eye(4))
    block.input_layernorm = block.post_attention_layernorm = hf.gpt_neox.final_layer_norm = (
        torch.nn.Identity()
    )
    hf.gpt_neox.embed_in.weight[:4] = torch.eye(4)
    hf.get_output_embeddings().weight[:2] = torch.tensor([[5.0, 1, 0, 0], [0, 2, 3, 0]])
    return ADAPTERS["gpt_neox"]("linear", hf)


def linear_pairs() -> PromptPairs:
    positions = {"A": torch.tensor([0, 0]), "B": torch.tensor([1, 1]), "last": torch.tensor([3, 3])}
    clean, corrupt = torch.tensor([[0, 2, 3, 3]] * 2), torch.tensor([[1, 2, 3, 2]] * 2)
    return PromptPairs(
        "linear", clean, corrupt, torch.tensor([0, 0]), torch.tensor([1, 1]), positions
    )


# logit difference = w . stream at the end, with w = [5, 1, 0, 0] - [0, 2, 3, 0] = [5, -1, -3, 0]
# embeddings change by [-1, 1, 0, 0] at A and by [0, 0, 1, -1] at the end
LINEAR = {
    ("embed", "value_in.0.0", "A"): (-5 - 1) / 4,
    ("embed", "value_in.0.0", "last"): -3 / 4,
    ("embed", LOGITS, "last"): -3.0,
    ("head_out.0.0", LOGITS, "last"): (-5 - 1) / 4 - 3 / 4,
}


@pytest.mark.parametrize("steps", [1, 5])
def test_scores_and_effects_of_a_linear_model_by_hand(steps: int) -> None:
    found = discover(linear_model(), linear_pairs(), steps=steps, n_top=3, n_random=5)
    scores = {
        (row["sender"], row["receiver"], row["position"]): row["score"]
        for row in found.edges.to_dicts()
    }
    assert {edge: score for edge, score in scores.items() if score} == pytest.approx(LINEAR)
    # scores of 0 are not drawn
    assert found.validation["chosen_as"].to_list() == ["top"] * 3 + ["random"]
    for column in ("effect", "effect_low", "effect_high"):  # both prompts are the same: no width
        assert found.validation[column].to_list() == pytest.approx(
            found.validation["score"].to_list()
        )
    every = found.correlation.row(by_predicate=pl.col("edges") == "all", named=True)
    assert (every["n"], every["pearson"], every["spearman"]) == (
        4,
        pytest.approx(1),
        pytest.approx(1),
    )
    assert found.components(4).rows() == [("head_out.0.0", 0, pytest.approx(1.5 + 0.75 + 2.25), 3)]


def patched(model: LanguageModel, pairs: PromptPairs, row: dict[str, Any], part: float) -> Tensor:
    """Logit difference of a full pass with `part` of the edge's difference at the receiver."""
    names, labels = position_labels(pairs)
    mask = (labels == names.index(row["position"])).to(torch.float64)
    receiver, tap = row["receiver"], row["tap"]
    source: Site | str = Site.parse(row["sender"])
    site, more = receiver, {}
    if receiver == LOGITS:
        site = f"resid.{model.n_layers - 1}"
    elif receiver.startswith("state"):
        site = row["sender"]
    elif tap is not None:
        source, more = receiver, {"taps": (tap,)}
    clean, corrupt = (
        model.run(tokens, capture=[source])[source] for tokens in (pairs.clean, pairs.corrupt)
    )
    change = corrupt - clean
    change = change if tap is None else change[:, :, tap, None]
    edit: Edit = Add(site, part * change * mask.view(*mask.shape, *[1] * (change.ndim - 2)), **more)
    logits = model.run(pairs.clean, edits=[edit]).logits
    assert logits is not None
    return measure(logits[:, -1], pairs)["logit_difference"]


def one_of_each_kind(edges: pl.DataFrame) -> pl.DataFrame:
    """The strongest edge between kinds of senders and receivers at each label, and weak ones."""
    kinds = [
        pl.col(end).str.split(".").list.first().alias(f"{end}_kind")
        for end in ("sender", "receiver")
    ]
    acting = edges.filter(pl.col("score").abs() > 1e-12).with_columns(kinds)
    strong = acting.unique(
        ["sender_kind", "receiver_kind", "position"], keep="first", maintain_order=True
    )
    return pl.concat([strong, acting.sample(min(15, len(acting)), seed=0)])


@pytest.mark.parametrize("case", CASES)
def test_plain_gradients_are_finite_differences_of_real_patches(case: str) -> None:
    model, pairs = tiny(case, torch.float64), some_pairs()
    edges = one_of_each_kind(score_edges(model, pairs, steps=1, batch=2))
    kinds = {name.split(".")[0] for name in edges["receiver"]}
    assert kinds == READ.get(case, TRANSFORMER)
    for row in edges.to_dicts():
        up, down = (patched(model, pairs, row, part).mean() for part in (1e-4, -1e-4))
        assert row["score"] == pytest.approx(float(up - down) / 2e-4, rel=1e-5, abs=1e-9), row


@pytest.mark.parametrize("case", CASES)
def test_effects_are_those_of_full_passes(case: str) -> None:
    model, pairs = tiny(case, torch.float64), some_pairs()
    edges = one_of_each_kind(score_edges(model, pairs, steps=2))
    effects = edge_effects(model, pairs, edges, batch=2)
    clean = patched(model, pairs, edges.row(0, named=True), 0.0)
    for row, effect in zip(edges.to_dicts(), effects, strict=True):
        torch.testing.assert_close(
            effect, patched(model, pairs, row, 1.0) - clean, rtol=1e-8, atol=1e-11
        )


@pytest.mark.parametrize("case", ["llama", "mamba", "jamba", "zamba2", "zamba2-apart"])
def test_what_a_receiver_reads_is_the_sum_of_its_senders(case: str) -> None:
    model, tokens = tiny(case, torch.float64), some_pairs().clean
    sent, read = senders(model), receivers(model)
    sites = dict.fromkeys(site.base for site in [*sent, *(one.site for one in read)])
    run = model.run(tokens, capture=list(sites))
    for one in read:
        values = []
        for site in (sent[i] for i in one.senders):
            whole = run[site.base]
            values.append(whole if site.head is None else whole[:, :, site.head])
        total = torch.stack(values).sum(0)
        total = total if run[one.site].ndim == 3 else total.unsqueeze(2).expand_as(run[one.site])
        torch.testing.assert_close(run[one.site], total, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", ["neox-sequential", "llama", "mamba", "zamba2"])
def test_what_the_embedding_sends_sums_to_the_change_of_the_metric(case: str) -> None:
    model, pairs = tiny(case, torch.float64), some_pairs()

    def sent(steps: int) -> float:
        return (
            score_edges(model, pairs, steps=steps)
            .filter(pl.col("sender") == "embed")["score"]
            .sum()
        )

    # for any number of steps: the gradient at the embeddings times their change
    e_clean, e_corrupt = (
        model.run(tokens, capture=["embed"])["embed"] for tokens in (pairs.clean, pairs.corrupt)
    )
    expected = 0.0
    for k in (1, 2, 3):
        z = (e_corrupt + k / 3 * (e_clean - e_corrupt)).requires_grad_()
        logits = model.run(pairs.clean, edits=[Replace("embed", z)], last_only=True).logits
        assert logits is not None
        (gradient,) = torch.autograd.grad(
            measure(logits[:, 0], pairs)["logit_difference"].mean(), z
        )
        expected += float(((e_corrupt - e_clean) * gradient).sum()) / 3
    assert sent(3) == pytest.approx(expected)
    # for many: m(corrupt) - m(clean).  The points are the right ends of K intervals: the error is c
    # / K, which cancels in 2 x (64 steps) - (32 steps)
    ends = [
        measure(model.run(t).logits[:, -1], pairs)["logit_difference"].mean()
        for t in (pairs.clean, pairs.corrupt)
    ]
    change = float(ends[1] - ends[0])
    fine = sent(64)
    assert fine == pytest.approx(change, rel=0.1)
    assert 2 * fine - sent(32) == pytest.approx(change, rel=2e-3)


@pytest.mark.parametrize("case", ["llama", "mamba"])
def test_equal_prompts_score_zero(case: str) -> None:
    pairs = some_pairs()
    same = PromptPairs(
        "same", pairs.clean, pairs.clean, pairs.answer, pairs.distractor, pairs.positions
    )
    found = discover(tiny(case), same, steps=2, n_top=2)
    assert (found.edges["score"] == 0).all()
    # rounding of another order
    assert len(found.validation) == 2 and found.validation["effect"].abs().max() < 1e-6
    assert (
        found.correlation["pearson"].is_nan().all() and found.correlation["spearman"].is_nan().all()
    )


@pytest.mark.parametrize("case", ["llama", "mamba"])
def test_batches_dtype_and_grad_mode_do_not_matter(case: str) -> None:
    pairs, on = some_pairs(), ["sender", "receiver", "tap", "position"]
    with torch.no_grad():
        wide = score_edges(tiny(case, torch.float64), pairs, steps=2, batch=1)
    model = tiny(case)
    model.hf.requires_grad_(True)
    single = score_edges(model, pairs, steps=2, batch=3)
    both = wide.join(single, on=on, nulls_equal=True, how="full", suffix="_single")
    assert len(both) == len(wide) == len(single)
    assert (both["score"] - both["score_single"]).abs().max() < 1e-4 * wide["score"].abs().max()
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    assert wide["score"].abs().is_sorted(descending=True)


def test_labels_partition_positions_and_the_first_one_wins() -> None:
    pairs = some_pairs(2, 7)
    moved = pairs.positions | {"B+1": torch.tensor([6, 4]), "other": torch.tensor([0, 0])}
    labelled = PromptPairs("test", pairs.clean, pairs.corrupt, pairs.answer, None, moved)
    names, index = position_labels(labelled)
    assert names == ["A", "B", "last", "B+1", "other"]
    assert [[names[i] for i in row] for row in index.tolist()] == [
        ["other", "A", "B", "other", "other", "other", "last"],
        ["other", "other", "A", "B", "B+1", "other", "last"],
    ]


@pytest.mark.parametrize("case", ["neox-parallel", "mamba"])
def test_edges_run_forward_and_each_once(case: str) -> None:
    edges = score_edges(tiny(case), some_pairs(), steps=1)
    assert edges.select(pl.exclude("score")).is_duplicated().sum() == 0
    own = edges.filter(pl.col("sender_layer") >= pl.col("receiver_layer"))
    assert set(own["receiver"].str.split(".").list.first()) == (
        {"conv_taps", "state"} if case == "mamba" else set()
    )
    assert set(edges.filter(pl.col("receiver") == LOGITS)["position"]) == {"last"}
    assert set(edges["position"]) == {"A", "B", "last", "other"}
    senders, reads = 5 * 3 + 1, 3 * 4 + 1  # of 4 heads and an MLP in 3 blocks
    to_stream = (
        1 + 6 + 11
    ) * reads * 4 + senders  # embed; embed and a block; embed and two blocks; then the logits
    in_mixers = 3 * (4 + 1) * 4  # taps and the write
    assert len(edges) == ((1 + 2 + 3) * 4 + 4 + in_mixers if case == "mamba" else to_stream)


def test_validated_edges_are_the_top_and_other_acting_ones() -> None:
    model, pairs = tiny("neox-parallel"), some_pairs()
    edges = score_edges(model, pairs, steps=1)
    first, again = (
        validate(model, pairs, edges.sample(fraction=1, shuffle=True, seed=s), 4, 6, seed=2)
        for s in (1, 1)
    )
    assert first.effects.equals(again.effects) and first.correlation["n"].to_list() == [4, 6, 10]
    top, random = (first.effects.filter(pl.col("chosen_as") == kind) for kind in ("top", "random"))
    assert top["score"].abs().to_list() == edges["score"].abs().head(4).to_list()
    assert (
        random["score"].abs().min() > 0 and random["score"].abs().max() <= top["score"].abs().min()
    )
    assert (first.effects["effect_low"] <= first.effects["effect"]).all()
    assert (first.effects["effect"] <= first.effects["effect_high"]).all()
    assert len(validate(model, pairs, edges, 0, 0).effects) == 0


def test_divergence_has_no_gradient_at_the_clean_prompt_but_on_the_way() -> None:
    model, pairs = tiny("mamba", torch.float64), some_pairs()
    assert score_edges(model, pairs, metric="kl", steps=1)["score"].abs().max() < 1e-9
    found = discover(model, pairs, metric="kl", n_top=3, n_random=0)
    assert found.validation["score"].abs().min() > 1e-6
    assert (
        found.validation["effect"] < 0
    ).all()  # whatever is patched, the distribution moves away


def test_components_name_nodes_and_share_keys() -> None:
    rows = [
        ("head_out.0.1", "key_in.2.1", "A", -4.0),
        ("mlp_out.1", "query_in.2.0", "last", 2.0),
        ("mlp_out.1", LOGITS, "last", -1.0),
        ("embed", "mlp_in.0", "A", 0.5),
    ]
    edges = pl.DataFrame(rows, ["sender", "receiver", "position", "score"], orient="row")
    found = Discovery("logit_difference", edges, edges, edges, ends(tiny("llama-bias")))
    names = ["head_out.0.1", "head_out.2.2", "head_out.2.3", "mlp_out.1", "head_out.2.0"]
    assert found.components(3)["node"].to_list() == names
    assert found.components(3)["score"].to_list() == [4, 4, 4, 3, 2]
    assert found.components(4).rows()[-1] == ("mlp_out.0", 0, 0.5, 1)
    mixer = pl.DataFrame(
        [("conv_in.2", "conv_taps.2", "B", -2.0), ("write.2", "state.2", "B", 1.0)],
        edges.columns,
        orient="row",
    )
    found = Discovery("kl", mixer, mixer, mixer, ends(tiny("mamba")))
    assert found.components().rows() == [("mixer_out.2", 2, 3.0, 2)]


def test_errors() -> None:
    model, pairs = tiny("neox-parallel"), some_pairs()
    with pytest.raises(InputError, match="metric"):
        score_edges(model, pairs, metric="rank")
    with pytest.raises(InputError, match="steps"):
        score_edges(model, pairs, steps=0)
    alone = PromptPairs("alone", pairs.clean, pairs.corrupt, pairs.answer, None, pairs.positions)
    with pytest.raises(InputError, match="metric for alone"):
        score_edges(model, alone)
