"""Loading: the zoo, folders, and what a user gets wrong."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.reference.tiny_models import tiny_gpt2, tiny_llama, tiny_qwen3_5
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

import homolog
from homolog.errors import InputError
from homolog.models.load import commit_of, require_inner_sites
from homolog.zoo import catalog


def test_the_untrained_twins_follow_from_their_seed():
    first, second = homolog.load("zoo:mamba-random"), homolog.load("mamba-random")
    with torch.random.fork_rng():
        torch.manual_seed(99)
        third = homolog.load("zoo:mamba-random")
    for a, b, c in zip(
        first.hf.parameters(), second.hf.parameters(), third.hf.parameters(), strict=True
    ):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert (first.n_layers, first.d_model, first.name) == (8, 128, "zoo:mamba-random")


def test_a_folder_loads_with_its_weights(neox_folder, mamba_folder):
    for folder, d_model in ((neox_folder, 32), (mamba_folder, 40)):
        model = homolog.load(folder)
        assert (model.n_layers, model.d_model, model.tokenizer) == (3, d_model, None)
        assert not any(p.requires_grad for p in model.hf.parameters())
        stored = load_file(folder / "model.safetensors")
        assert torch.equal(
            model.embedding().weight,
            next(v for k, v in stored.items() if "embed_in" in k or "embeddings" in k),
        )


def test_dtype_is_as_asked_and_mamba_keeps_a_log_in_float32(mamba_folder):
    model = homolog.load(mamba_folder, dtype=torch.bfloat16)
    assert model.hf.backbone.layers[0].mixer.in_proj.weight.dtype == torch.bfloat16
    assert model.hf.backbone.layers[0].mixer.A_log.dtype == torch.float32
    assert model.run(torch.zeros(1, 5, dtype=torch.long)).logits.dtype == torch.float32


def test_float64_stays_float64_throughout(mamba_folder):
    model = homolog.load(mamba_folder, dtype=torch.float64)
    assert {p.dtype for p in model.hf.parameters()} == {torch.float64}
    run = model.run(torch.zeros(1, 5, dtype=torch.long), capture=["state.1"])
    assert run.logits.dtype == run["state.1"].dtype == torch.float64


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
def test_gpt2_and_llama_load_from_a_folder(build, tmp_path):
    hf = build()
    hf.save_pretrained(tmp_path)
    tokens = torch.arange(12).view(2, 6)
    torch.testing.assert_close(
        homolog.load(tmp_path).run(tokens).logits, hf(tokens).logits, atol=1e-5, rtol=1e-5
    )
    half = homolog.load(tmp_path, dtype=torch.bfloat16).run(tokens, capture=["resid.2"])
    assert half["resid.2"].dtype == torch.bfloat16 and half.logits.isfinite().all()


def test_an_unknown_zoo_name_lists_the_zoo():
    with pytest.raises(ValueError) as error:
        homolog.load("zoo:mamba-s7")
    assert all(name in str(error.value) for name in catalog.names())


@pytest.mark.parametrize("ref", ["no-such-model", "./nowhere", "a/b/c"])
def test_a_name_that_is_nothing_says_what_would_do(ref):
    with pytest.raises(ValueError, match=r"no Hub id.*zoo:mamba-s0"):
        homolog.load(ref)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("gpt2", "openai-community/gpt2"),
        ("gpt2-xl", "openai-community/gpt2-xl"),
        ("distilgpt2", "distilbert/distilgpt2"),
        ("pythia-160m-deduped", "EleutherAI/pythia-160m-deduped"),
        ("mamba-130m-hf", "state-spaces/mamba-130m-hf"),
        ("SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("gemma-3-270m", "google/gemma-3-270m"),
        ("Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
        ("Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
    ],
)
def test_a_well_known_short_name_is_given_its_owner(short, full):
    with pytest.raises(InputError) as error:
        homolog.load(short)
    assert error.value.value == short and error.value.remedy.startswith(f"Is it {full}? Name a")


def test_other_names_are_given_none():
    with pytest.raises(InputError) as error:
        homolog.load("no-such-model")
    assert error.value.remedy.startswith("Name a folder, a Hub id, or one of the zoo: zoo:")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The cache of the Hub with one repository, OWNER/tiny, and no network."""
    snapshot = tmp_path / "models--OWNER--tiny" / "snapshots" / ("a" * 40)
    tiny_llama().save_pretrained(snapshot)
    (tmp_path / "models--OWNER--tiny" / "refs").mkdir()
    (tmp_path / "models--OWNER--tiny" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return snapshot


def test_a_model_of_the_hub_is_checked_like_a_folder(hub):
    assert homolog.load("OWNER/tiny").n_layers == 3 and commit_of("OWNER/tiny") == "a" * 40
    tensors = load_file(hub / "model.safetensors")
    save_file(
        tensors | {"output.weight": torch.ones(97, 36)}, hub / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(InputError, match=r"'OWNER/tiny'.* no place .* output\.weight among them"):
        homolog.load("OWNER/tiny")
    del tensors["model.norm.weight"]
    save_file(tensors, hub / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"'OWNER/tiny'.*lack 1 weights, model\.norm\.weight"):
        homolog.load("OWNER/tiny")


def test_a_hub_id_that_cannot_be_fetched(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"EleutherAI/no-such-model-at-all.*the Hub did not give it"
    ):
        homolog.load("EleutherAI/no-such-model-at-all")


def test_a_folder_without_config(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        homolog.load(tmp_path)


def test_pickled_weights_are_not_read(neox_folder, tmp_path):
    shutil.copy(neox_folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(ValueError, match="safetensors"):
        homolog.load(tmp_path)


def test_nan_in_weights_is_named(mamba_folder, tmp_path):
    shutil.copytree(mamba_folder, tmp_path / "bad")
    tensors = load_file(tmp_path / "bad" / "model.safetensors")
    name = "backbone.layers.1.mixer.out_proj.weight"
    tensors[name][3, 2] = float("nan")
    save_file(tensors, tmp_path / "bad" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"{name} has values that are not finite"):
        homolog.load(tmp_path / "bad")


def test_missing_weights_are_named(mamba_folder, tmp_path):
    shutil.copytree(mamba_folder, tmp_path / "cut")
    tensors = load_file(tmp_path / "cut" / "model.safetensors")
    del tensors["backbone.layers.2.mixer.in_proj.weight"]
    save_file(tensors, tmp_path / "cut" / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lack 1 weights, backbone\.layers\.2\.mixer\.in_proj\.weight"
    ):
        homolog.load(tmp_path / "cut")


def test_a_model_that_sees_images_is_read_as_its_text_model(tmp_path):
    """As Qwen3.5 is released: the adapter is that of the text, which its configuration says."""
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "num_position_embeddings": 16,
    }
    text = tiny_qwen3_5().config.to_dict()
    config = Qwen3_5Config(text_config=text, vision_config=vision)
    hf = Qwen3_5ForConditionalGeneration(config).eval()
    hf.save_pretrained(tmp_path)
    require_inner_sites(tmp_path, "reading neurons", "Do without.")
    model = homolog.load(tmp_path)
    assert model.architecture == "qwen3_5_text" and model.layer_neurons(0) == ("mlp_hidden",)
    tokens = torch.arange(3, 14)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.run(tokens).logits, hf(tokens).logits)
