"""Dictionaries of other libraries, read as they compute them, and ours read by them.

    pytest tests/dictionaries/test_formats.py -rP -k largest

prints the largest difference of every case.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.dictionaries.conftest import (
    K_BEYOND,
    LLAMASCOPIUM,
    NORMS,
    WRITTEN,
    Foreign,
    llamascopium_folder,
    random_dictionary,
)
from tests.dictionaries.helpers import D_MODEL, D_SAE
from tests.reference.llamascopium_forward import encode_decode

from homolog.dictionaries import SparseAutoencoder, convert, load, save
from homolog.dictionaries.formats import is_elsewhere, residual_layer
from homolog.dictionaries.formats.llamascopium import _expansion
from homolog.errors import InputError

CASES = {
    "sae_lens/standard": "relu",
    "sae_lens/standard-uncentred": "relu",
    "sae_lens/standard-scaled": "relu",
    "sae_lens/topk": "topk",
    "sae_lens/topk-by-norm": "topk",
    "sae_lens/topk-old": "topk",
    "sae_lens/jumprelu": "jumprelu",
    "sae_lens/jumprelu-uncentred": "jumprelu",
    "sae_lens/gated": "gated",
    "sae_lens/gated-uncentred": "gated",
    "sae_lens/batchtopk": "batchtopk",
    "sae_lens/matryoshka": "batchtopk",
    "sparsify/layers.2": "topk",
    "dictionary_learning/AutoEncoder": "relu",
    "dictionary_learning/AutoEncoderNew": "relu",
    "dictionary_learning/AutoEncoderTopK": "topk",
    "dictionary_learning/BatchTopKSAE": "batchtopk",
    "dictionary_learning/MatryoshkaBatchTopKSAE": "batchtopk",
    "dictionary_learning/GatedAutoEncoder": "gated",
    "dictionary_learning/JumpReluAutoEncoder": "jumprelu",
}
CHECKPOINTS = ("sae_lens/batchtopk-checkpoint", "sae_lens/matryoshka-checkpoint")
OURS = [
    f"{name}/{kind}" for name, kinds in WRITTEN.items() for kind in kinds if name != "llamascopium"
]
CLOSE = {"atol": 2e-5, "rtol": 1e-5}


def assert_same(
    sae: SparseAutoencoder, x: torch.Tensor, f: torch.Tensor, x_hat: torch.Tensor
) -> None:
    found = sae.encode(x)
    torch.testing.assert_close(found, f, **CLOSE)
    torch.testing.assert_close(sae.decode(found), x_hat, **CLOSE)


@pytest.mark.parametrize(("name", "kind"), CASES.items())
def test_a_foreign_dictionary_computes_what_its_library_computes(
    name: str, kind: str, foreign: Foreign
) -> None:
    sae = load(foreign.folder / name)
    f, x_hat = foreign.of(name)
    assert sae.kind == kind and 0 < (f > 0).float().mean() < 0.9
    assert_same(sae, foreign.x, f, x_hat)
    assert sae.metadata["layer"] == 2
    library, folder = name.split("/")
    files = sae.metadata["origin"]["files"]
    assert sae.metadata["origin"]["format"].replace("SAELens", "sae_lens") == library
    assert set(files) >= {"cfg.json"} or set(files) == {"config.json", "ae.pt"}
    assert (
        folder == "AutoEncoderNew" or library == "sae_lens" or sae.metadata["model"] == "owner/tiny"
    )


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_training_checkpoint_is_what_it_is_saved_as_for_inference(
    name: str, foreign: Foreign
) -> None:
    sae = load(foreign.folder / name)
    assert sae.kind == "batchtopk"
    assert_same(sae, foreign.x, *foreign.of(name))


@pytest.mark.parametrize("name", OURS)
def test_the_libraries_compute_what_ours_computes(name: str, foreign: Foreign) -> None:
    sae = random_dictionary(name.split("/")[1])
    assert_same(sae, foreign.x, *foreign.of(f"ours/{name}"))
    if name.startswith("homolog"):
        assert int(foreign.results[f"ours/{name}.layer"]) == 2


@pytest.mark.parametrize(
    "name", [f"{name}/{kind}" for name, kinds in WRITTEN.items() for kind in kinds]
)
def test_what_is_written_in_any_format_comes_back(name: str, foreign: Foreign) -> None:
    sae, back = random_dictionary(name.split("/")[1]), load(foreign.folder / "ours" / name)
    assert (back.kind, back.k) == (sae.kind, sae.k)
    assert {key: back.metadata[key] for key in sae.metadata} == sae.metadata
    f = sae.encode(foreign.x)
    assert_same(back, foreign.x, f, sae.decode(f))


@pytest.mark.parametrize("name", K_BEYOND)
def test_a_k_beyond_the_number_of_features_means_all_of_them(name: str, foreign: Foreign) -> None:
    """Also in what is saved again, of which SAELens takes the k largest."""
    sae = random_dictionary("topk")
    pre = (foreign.x - sae.b_dec) @ sae.W_enc + sae.b_enc
    found = load(foreign.folder / "k-beyond" / name)
    assert found.k == D_SAE
    torch.testing.assert_close(found.encode(foreign.x), torch.relu(pre), **CLOSE)
    by_sae_lens, _ = foreign.of(f"ours/homolog/k-beyond-{name}")
    torch.testing.assert_close(by_sae_lens, torch.relu(pre), **CLOSE)


@pytest.mark.parametrize("name", LLAMASCOPIUM)
def test_llamascopium_is_read_as_its_documentation_says(
    name: str, foreign: Foreign, tmp_path: Path
) -> None:
    made = llamascopium_folder(tmp_path, name)
    config, old = made["config"], name.startswith("old")
    b_D, norms = made.get("b_D", torch.zeros(D_MODEL)), NORMS if old else (NORMS[0], NORMS[0])
    weights = made["W_E"], made["b_E"], made["W_D"], b_D
    x = foreign.x[:20]
    f, x_hat = (
        torch.from_numpy(a).float()
        for a in encode_decode(x, *weights, config, norms, made.get("log"))
    )  # float64, one number at a time
    sae = load(tmp_path / name)
    if (
        config["act_fn"] == "topk" and config["sparsity_include_decoder_norm"]
    ):  # ours chooses by its own values
        t = D_MODEL**0.5 / norms[1]
        f = f * made["W_D"].norm(dim=1) / t
    assert sae.kind == config["act_fn"] and 0.02 < (f > 0).float().mean() < 0.9
    assert_same(sae, x, f, x_hat)
    assert sae.metadata["layer"] == 2 and sae.metadata["model"] == "owner/tiny"


@pytest.mark.parametrize(
    "name", [*(n for n in LLAMASCOPIUM if not n.startswith("old")), *WRITTEN["llamascopium"]]
)
def test_the_installed_llamascopium_computes_the_same(name: str, foreign: Foreign) -> None:
    """Its package supports fewer versions of Python than ours: no development dependency."""
    theirs = name in LLAMASCOPIUM
    path = f"llamascopium/{name}" if theirs else f"ours/llamascopium/{name}"
    if f"{path}.encode" not in foreign.results:
        pytest.skip(
            "llamascopium is not installed; its independent implementation is compared instead"
        )
    sae, (f, x_hat) = load(foreign.folder / path), foreign.of(path)
    if name == "topk" and theirs:
        f = (
            f
            * load_file(foreign.folder / path / "sae_weights.safetensors")["W_D"].norm(dim=1)
            * NORMS[0]
            / D_MODEL**0.5
        )
    assert_same(sae, foreign.x, f, x_hat)


def test_the_largest_differences_are_printed(foreign: Foreign) -> None:
    for name in [*CASES, *CHECKPOINTS, *(f"ours/{name}" for name in OURS)]:
        sae, (f, x_hat) = load(foreign.folder / name), foreign.of(name)
        found = sae.encode(foreign.x)
        of_f, of_x = float((found - f).abs().max()), float((sae.decode(found) - x_hat).abs().max())
        print(f"{name:45} encode {of_f:.1e} decode {of_x:.1e}   largest value {float(f.max()):.0f}")
        assert max(of_f, of_x) < 2e-5


def test_conversion_there_and_back(foreign: Foreign, tmp_path: Path) -> None:
    for name, form in (("sae_lens/gated", "dictionary-learning"), ("sparsify/layers.2", "homolog")):
        files = convert(foreign.folder / name, tmp_path / form, form)
        assert all(path.exists() for path in files)
        back = load(tmp_path / form)
        assert back.kind == CASES[name] and back.metadata["origin"]["files"]
        assert_same(back, foreign.x, *foreign.of(name))
    with pytest.raises(InputError, match="must not hold a dictionary already"):
        convert(foreign.folder / "sae_lens/gated", tmp_path / "homolog", "sparsify")
    with pytest.raises(InputError, match="'gated', but sparsify stores topk alone"):
        convert(foreign.folder / "sae_lens/gated", tmp_path / "new", "sparsify")
    with pytest.raises(
        InputError, match="one of homolog, sparsify, dictionary_learning, llamascopium, sae_lens"
    ):
        convert(foreign.folder / "sae_lens/gated", tmp_path / "new", "pickle")


def edit(folder: Path, name: str = "cfg.json", **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_trainer(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"trainer": config["trainer"] | changes}))


def add_tensor(folder: Path) -> None:
    tensors = load_file(folder / "sae_weights.safetensors")
    save_file({**tensors, "threshold": torch.ones(D_SAE)}, folder / "sae_weights.safetensors")


class Code:
    """An object whose pickle would have to run code."""


def pickle_code(folder: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(D_SAE, D_MODEL), "more": Code()}, folder / "ae.pt")


def never_estimated(folder: Path) -> None:
    state = torch.load(folder / "ae.pt", weights_only=True)
    torch.save(state | {"threshold": torch.tensor(-1.0)}, folder / "ae.pt")


REFUSED = [
    (
        "sae_lens/standard",
        lambda f: edit(f, normalize_activations="layer_norm"),
        "divides every token by a norm",
    ),
    (
        "sae_lens/standard",
        lambda f: edit(f, normalize_activations="constant_norm_rescale"),
        "train without it",
    ),
    (
        "sae_lens/standard",
        lambda f: edit(f, normalize_activations="covariance_whitening"),
        "Fold it into the weights",
    ),
    (
        "sae_lens/standard",
        lambda f: edit(f, normalize_activations="expected_average_only_in"),
        "activation_scaler",
    ),
    (
        "sae_lens/standard",
        lambda f: edit(f, reshape_activations="hook_z"),
        "'hook_z', but it must be none.*heads",
    ),
    (
        "sae_lens/standard",
        lambda f: edit(f, activation_fn="tanh-relu"),
        "'tanh-relu', but it must be relu or topk",
    ),
    ("sae_lens/standard", lambda f: edit(f, finetuning_scaling_factor=True), "Multiply W_dec"),
    ("sae_lens/standard", lambda f: edit(f, architecture="transcoder"), "one of standard, topk"),
    ("sae_lens/standard", add_tensor, "'threshold', but it must be of this kind, which has W_enc"),
    ("sae_lens/topk", lambda f: edit(f, k=0), "k in .*positive integer"),
    (
        "sparsify/groupmax",
        lambda f: None,
        "'groupmax', but it must be topk. Groupmax takes one feature of every group",
    ),
    (
        "sparsify/transcode",
        lambda f: None,
        "transcode in .*True, but it must be false. A transcoder writes another",
    ),
    ("sparsify/skip", lambda f: None, "skip_connection in .*adds x W_skip"),
    (
        "sparsify/layers.2",
        lambda f: edit(f, signed=True),
        "signed in .*Features here are never negative",
    ),
    (
        "sparsify/layers.2",
        lambda f: edit(f, num_latents=30),
        r"encoder.weight in .*shape \(40, 16\).*\(30, 16\)",
    ),
    ("dictionary_learning/AutoEncoder", pickle_code, "only tensors are read from a pickle"),
    (
        "dictionary_learning/AutoEncoder",
        lambda f: edit_trainer(f, dict_class="CrossTranscoder"),
        "one of AutoEncoder",
    ),
    (
        "dictionary_learning/AutoEncoder",
        lambda f: edit_trainer(f, dict_size=41),
        "trainer.dict_size in .* 41.*40, as",
    ),
    (
        "dictionary_learning/AutoEncoder",
        lambda f: edit_trainer(f, dict_class="BatchTopKSAE", k=7),
        "bias.*this kind",
    ),
    (
        "dictionary_learning/AutoEncoderTopK",
        lambda f: edit_trainer(f, k=8),
        "trainer.k in .* is 8.*7, as in ae.pt",
    ),
    (
        "dictionary_learning/BatchTopKSAE",
        never_estimated,
        "not estimated yet, and features without it depend on",
    ),
    (
        "dictionary_learning/AutoEncoder",
        lambda f: edit(f, "config.json", buffer={"io": "in_and_out"}),
        "A transcoder",
    ),
    (
        "llamascopium/relu",
        lambda f: edit(f, "config.json", norm_activation="token-wise"),
        "'token-wise'.*its own",
    ),
    ("llamascopium/relu", lambda f: edit(f, "config.json", sae_type="clt"), "sae_type in .*'clt'"),
    (
        "llamascopium/relu",
        lambda f: edit(f, "config.json", use_glu_encoder=True),
        "multiplies two products",
    ),
    (
        "llamascopium/relu",
        lambda f: edit(f, "config.json", hook_point_out="blocks.2.hook_mlp_out"),
        "hook_point_out",
    ),
    (
        "llamascopium/relu",
        lambda f: edit(f, "config.json", act_fn="batchtopk"),
        "what else is in the batch",
    ),
    (
        "llamascopium/relu",
        lambda f: edit(f, "config.json", act_fn="jumprelu"),
        "above 0 for jumprelu",
    ),
    (
        "llamascopium/relu",
        lambda f: edit(f, "config.json", expansion_factor=3),
        "40 features of d_model 16'.*48 of",
    ),
    (
        "llamascopium/jumprelu",
        lambda f: edit(f, "config.json", act_fn="relu"),
        "log_jumprelu_threshold.*of this kind",
    ),
    (
        "ours/homolog/jumprelu",
        lambda f: edit(f, architecture="standard"),
        "under metadata.homolog, 'jumprelu'",
    ),
    (
        "ours/homolog/relu",
        lambda f: edit(f, architecture="gated"),
        "the kind under metadata.homolog, 'relu'",
    ),
    (
        "ours/dictionary_learning/gated",
        lambda f: edit_trainer(f, dict_class="AutoEncoder"),
        "the kind under homolog",
    ),
    (
        "ours/llamascopium/topk",
        lambda f: edit(f, "config.json", act_fn="relu"),
        "the kind under homolog, 'topk'",
    ),
]


@pytest.mark.parametrize(
    ("name", "change", "message"), REFUSED, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(REFUSED)]
)
def test_what_has_no_such_form_is_refused(
    name: str, change, message: str, foreign: Foreign, tmp_path: Path
) -> None:
    shutil.copytree(foreign.folder / name, tmp_path / "copy")
    change(tmp_path / "copy")
    with pytest.raises(InputError, match=f"(?s){message}"):
        load(tmp_path / "copy")


def test_a_folder_of_no_format_says_what_was_looked_for(foreign: Foreign, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"none of cfg.json, config.json, hyperparams.json.*such as AutoEncoder"
    ):
        load(foreign.folder / "dictionary_learning")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(
        InputError, match=r"none of .*SAELens, sparsify, dictionary_learning, llamascopium write it"
    ):
        load(tmp_path)
    with pytest.raises(InputError, match=r"there is no such folder.*hf:OWNER/NAME/FOLDER"):
        load(tmp_path / "nowhere")
    shutil.copytree(foreign.folder / "sparsify/layers.2", tmp_path / "both")
    shutil.copy(foreign.folder / "llamascopium/relu/config.json", tmp_path / "both")
    with pytest.raises(
        InputError, match=r"one format, and holds cfg.json of sparsify, config.json of llamascopium"
    ):
        load(tmp_path / "both")


def test_hooks_name_the_block_whose_residuals_are_read() -> None:
    named = {
        "blocks.3.hook_resid_post": 3,
        "blocks.4.hook_resid_pre": 3,
        "resid_post_layer_3": 3,
        "layers.3": 3,
        "gpt_neox.layers.3": 3,
        "transformer.h.3": 3,
        "resid.3": 3,
        "blocks.0.hook_resid_pre": None,
        None: None,
        "blocks.3.hook_mlp_out": None,
        "layers.3.mlp": None,
        "embed_tokens": None,
        "something": None,
    }
    assert {hook: residual_layer(hook) for hook in named} == named
    elsewhere = [
        "blocks.3.hook_mlp_out",
        "layers.3.mlp",
        "blocks.3.attn.hook_z",
        "embed_tokens",
        "h.3.ln_1",
    ]
    assert [hook for hook in (*named, *elsewhere) if is_elsewhere(hook)] == [
        "blocks.3.hook_mlp_out",
        "layers.3.mlp",
        "embed_tokens",
        *elsewhere,
    ]


def test_a_width_that_is_no_multiple_survives_the_expansion_factor() -> None:
    for d_model in (3, 7, 128, 768):
        assert all(int(d_model * _expansion(d_model, n)) == n for n in range(1, 3000))


class Hub:
    """Stands in for the Hub: repositories are folders, and what is asked for is written down."""

    def __init__(self, repositories: Path, cache: Path) -> None:
        self.repositories, self.cache, self.asked = repositories, cache, []

    def snapshot_download(self, repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append((repo, revision, allow_patterns))
        target = self.cache / "0123abc"
        for pattern in allow_patterns:
            for path in (self.repositories / repo).glob(pattern):
                copy = target / path.relative_to(self.repositories / repo)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
        return str(target)


def test_only_what_is_needed_comes_from_the_hub(
    foreign: Foreign, tmp_path: Path, monkeypatch
) -> None:
    shutil.copytree(foreign.folder / "sparsify", tmp_path / "hub" / "owner" / "name")
    hub = Hub(tmp_path / "hub", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    sae = load("hf:owner/name@main/layers.2")
    assert_same(sae, foreign.x, *foreign.of("sparsify/layers.2"))
    assert [revision for _, revision, _ in hub.asked] == ["main", "0123abc"]
    assert set(hub.asked[1][2]) == {"layers.2/sae.safetensors", "config.json"}
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*.safetensors")) == [
        "sae.safetensors"
    ]
    origin = sae.metadata["origin"]
    assert (origin["ref"], origin["commit"]) == ("hf:owner/name@main/layers.2", "0123abc")
    assert sae.metadata["layer"] == 2 and sae.metadata["model"] == "owner/tiny"


def test_what_is_in_the_cache_of_the_hub_needs_no_network(
    foreign: Foreign, tmp_path: Path, monkeypatch
) -> None:
    commit, cached = "0123456789" * 4, tmp_path / "models--owner--name"
    shutil.copytree(foreign.folder / "sparsify", cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    sae = load("hf:owner/name/layers.2")
    assert_same(sae, foreign.x, *foreign.of("sparsify/layers.2"))
    assert sae.metadata["origin"]["commit"] == commit and sae.metadata["revision"] == "main"


def test_without_a_network_the_hub_is_named(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"hf:owner/no-such.*the Hub did not give it.*name the folder"
    ):
        load("hf:owner/no-such-dictionary/layers.2")
    for wrong in ("hf:owner", "hf:owner/name/folder@main", "hf:owner/name/../.."):
        with pytest.raises(InputError, match="it must have the form hf:OWNER/NAME"):
            load(wrong)


def test_weights_in_half_precision_are_folded_in_double(foreign: Foreign, tmp_path: Path) -> None:
    shutil.copytree(foreign.folder / "sae_lens/gated-uncentred", tmp_path / "half")
    path = tmp_path / "half" / "sae_weights.safetensors"
    save_file({name: w.bfloat16() for name, w in load_file(path).items()}, path)
    sae = load(tmp_path / "half")
    W, b_gate, r, b_mag = (
        load_file(path)[name].double() for name in ("W_enc", "b_gate", "r_mag", "b_mag")
    )
    q = foreign.x.double() @ W
    expected = (torch.relu(q * r.exp() + b_mag) * (q + b_gate > 0)).float()
    torch.testing.assert_close(sae.encode(foreign.x), expected, **CLOSE)


def test_a_decoder_without_norm_has_no_features_to_scale(tmp_path: Path) -> None:
    sae = random_dictionary("topk")
    W_dec = sae.W_dec.clone()
    W_dec[3] = 0
    save(replace(sae, W_dec=W_dec * 2), tmp_path)
    edit(tmp_path, rescale_acts_by_decoder_norm=True, metadata={})
    back = load(tmp_path)
    assert (
        back.encode(torch.randn(50, D_MODEL))[:, 3].max() == 0 and torch.isfinite(back.W_dec).all()
    )
