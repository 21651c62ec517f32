"""Changed models: the same function in other coordinates, noise as said, nothing learned."""

from __future__ import annotations

import pytest
import torch

from homolog.errors import InputError
from homolog.models import load
from homolog.pipeline.inputs import require_different, weights_input
from homolog.reference import resolve

IDS = torch.randint(0, 1000, (2, 24), generator=torch.Generator().manual_seed(0))
MODELS = ["zoo:transformer-s0", "zoo:mamba-s0"]


def states(ref: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, the residual stream after block 1) of a changed model."""
    hf = load(ref, dtype=torch.float64).hf
    with torch.no_grad():
        out = hf(IDS, output_hidden_states=True)
    return out.logits, out.hidden_states[2]


@pytest.mark.parametrize("ref", MODELS)
def test_turned_models_compute_the_same_in_another_basis(ref: str) -> None:
    logits, plain = states(ref)
    for change in ("permuted", "rotated"):
        turned_logits, turned = states(f"{ref}#{change}")
        # Mamba's norms and scan stay in float32
        torch.testing.assert_close(turned_logits, logits, rtol=1e-5, atol=2e-5)
        assert (turned - plain).abs().max() > 1
        norms = [x.double().norm(dim=-1) for x in (plain, turned)]
        torch.testing.assert_close(*norms, rtol=1e-5, atol=1e-5)  # the turn keeps them
    ordered = [x[0].sort(dim=-1).values for x in (plain, states(f"{ref}#permuted")[1])]
    torch.testing.assert_close(*ordered, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ref", MODELS)
def test_noise_has_its_level_and_repeats(ref: str) -> None:
    plain = dict(load(ref).hf.named_parameters())
    noisy = dict(load(f"{ref}#noise=0.2").hf.named_parameters())
    again = dict(load(f"{ref}#noise=0.2").hf.named_parameters())
    for name, weight in plain.items():
        assert torch.equal(noisy[name], again[name])
        if weight.ndim < 2:
            assert torch.equal(noisy[name], weight)
        elif weight.numel() > 10_000:
            assert ((noisy[name] - weight).std() / weight.std()).item() == pytest.approx(0.2, 0.05)
    assert all(torch.equal(w, plain[n]) for n, w in load(f"{ref}#noise=0").hf.named_parameters())


@pytest.mark.parametrize("ref", MODELS)
def test_an_untrained_one_has_nothing_of_the_weights(ref: str) -> None:
    (plain, _), (one, _), (two, _) = (states(ref + c) for c in ("", "#untrained=1", "#untrained=2"))
    targets = IDS[:, 1:].flatten()
    losses = [
        torch.nn.functional.cross_entropy(x[:, :-1].flatten(0, 1), targets) for x in (one, two)
    ]
    assert all(6.5 < loss < 8.5 for loss in losses)  # log 1024 is 6.9
    assert not torch.allclose(one, two) and not torch.allclose(one, plain)


def test_a_change_is_part_of_what_a_reference_names() -> None:
    named = resolve("zoo:mamba-s0#noise=0.1")
    assert (named.kind, named.name, named.change) == ("zoo", "mamba-s0", "noise=0.1")
    refs = ("zoo:mamba-s0", "zoo:mamba-s0#permuted", "zoo:mamba-s0#noise=0.1")
    require_different([weights_input(ref) for ref in refs])
    with pytest.raises(InputError, match="they hold the same weights"):
        require_different([weights_input("zoo:mamba-s0#permuted")] * 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("noise", "noise takes a number"),
        ("noise=-1", "noise takes a number"),
        ("untrained=x", "untrained takes a number"),
        ("rotated=2", "no such change"),
    ],
)
def test_a_change_that_is_none_is_refused(change: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(f"zoo:transformer-s0#{change}")


def test_a_stream_that_is_not_known_is_not_turned(tmp_path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=32)).save_pretrained(
        tmp_path
    )
    with pytest.raises(InputError, match=r"known for gpt_neox, mamba, not for gpt2.*noise=LEVEL"):
        load(f"{tmp_path}#permuted")
    assert load(f"{tmp_path}#noise=0.1").architecture == "gpt2"


@pytest.mark.parametrize("ref", MODELS)
def test_one_of_fewer_blocks_has_their_number_and_fresh_weights(ref: str) -> None:
    whole, part = load(ref), load(f"{ref}#blocks=2")
    assert (part.n_layers, part.d_model) == (2, whole.d_model)
    assert part.n_parameters < whole.n_parameters
    assert not torch.equal(part.embedding().weight, whole.embedding().weight)
    for n in (0, whole.n_layers + 1):
        with pytest.raises(InputError, match=f"it has {whole.n_layers} blocks"):
            load(f"{ref}#blocks={n}")
