"""One call of the real libraries for all tests that compare with them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.dictionaries.helpers import D_MODEL, D_SAE

from homolog.dictionaries import KINDS, SparseAutoencoder, load, save

ORACLE = Path(__file__).parents[1] / "reference" / "foreign_saes.py"
WRITTEN = {
    "homolog": list(KINDS),
    "sparsify": ["topk"],
    "dictionary_learning": list(KINDS),
    "llamascopium": list(KINDS),
}
"""Kinds that each format can hold."""


def random_dictionary(kind: str, seed: int = 3) -> SparseAutoencoder:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    W_enc, b_enc, W_dec, b_dec = (
        draw(D_MODEL, D_SAE),
        draw(D_SAE),
        draw(D_SAE, D_MODEL),
        draw(D_MODEL),
    )
    threshold = draw(D_SAE).abs() * 2 if KINDS[kind].form == "threshold" else None
    metadata = {"model": "zoo:transformer-s0", "layer": 2, "label": "sae"}
    return SparseAutoencoder(
        W_enc,
        b_enc,
        W_dec / W_dec.norm(dim=1, keepdim=True),
        b_dec,
        kind=kind,
        k=7 if KINDS[kind].form == "k" else None,
        threshold=threshold,
        metadata=metadata,  # type: ignore[arg-type]
    )


LLAMASCOPIUM = {
    # name: what differs from the common configuration; old layouts have other names and a scalar
    # threshold
    "relu": {"act_fn": "relu"},
    "relu-plain": {
        "act_fn": "relu",
        "sparsity_include_decoder_norm": False,
        "use_decoder_bias": False,
    },
    "topk": {"act_fn": "topk"},
    "topk-plain": {"act_fn": "topk", "sparsity_include_decoder_norm": False},
    "jumprelu": {"act_fn": "jumprelu"},
    "jumprelu-plain": {"act_fn": "jumprelu", "sparsity_include_decoder_norm": False},
    "jumprelu-inference": {"act_fn": "jumprelu", "norm_activation": "inference"},
    "old-jumprelu": {
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.4,
        "apply_decoder_bias_to_pre_encoder": False,
    },
    "old-plain": {
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.6,
        "sparsity_include_decoder_norm": False,
        "apply_decoder_bias_to_pre_encoder": True,
    },
    "old-batchtopk": {
        "act_fn": "batchtopk",
        "jump_relu_threshold": 0.5,
        "apply_decoder_bias_to_pre_encoder": False,
    },
    "old-topk": {"act_fn": "topk", "apply_decoder_bias_to_pre_encoder": True},
}
NORMS = (2.5, 4.0)
"""Average norms at input and output; new layouts have one for each hook, and here one hook."""


def llamascopium_folder(folder: Path, name: str, seed: int = 8) -> dict:
    """Write a random autoencoder in llamascopium's layout.

    Returns its configuration and tensors by their new names.
    """
    old, hook = name.startswith("old"), "blocks.2.hook_resid_post"
    config = {
        "sae_type": "sae",
        "d_model": D_MODEL,
        "expansion_factor": D_SAE / D_MODEL,
        "use_decoder_bias": True,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
        "top_k": 7,
        "hook_point_in": hook,
        "hook_point_out": hook,
    } | LLAMASCOPIUM[name]
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy((rng.standard_normal(shape) * 0.4).astype(np.float32))

    tensors = {
        "W_E": draw(D_MODEL, D_SAE),
        "b_E": draw(D_SAE),
        "W_D": draw(D_SAE, D_MODEL),
        "b_D": draw(D_MODEL),
    }
    if config["act_fn"] == "jumprelu" and not old:
        tensors["log"] = draw(D_SAE)
    if not config["use_decoder_bias"]:
        del tensors["b_D"]
    (folder / name / "checkpoints").mkdir(parents=True)
    if old:
        config["dataset_average_activation_norm"] = dict(zip(("in", "out"), NORMS, strict=True))
        names = {
            "W_E": "encoder.weight",
            "b_E": "encoder.bias",
            "W_D": "decoder.weight",
            "b_D": "decoder.bias",
        }
        stored = {names[key]: w.T.contiguous() if w.ndim == 2 else w for key, w in tensors.items()}
        save_file(stored, folder / name / "checkpoints" / "final.safetensors")
    else:
        stored = {
            {"log": "activation_function.log_jumprelu_threshold"}.get(k, k): w
            for k, w in tensors.items()
        }
        stored[f"dataset_average_activation_norm.{hook}"] = torch.tensor(NORMS[0])
        save_file(stored, folder / name / "sae_weights.safetensors")
    (folder / name / ("hyperparams.json" if old else "config.json")).write_text(json.dumps(config))
    (folder / name / "lm_config.json").write_text(json.dumps({"model_name": "owner/tiny"}))
    return {"config": config, **tensors}


K_BEYOND = {
    "homolog": ("cfg.json", "k"),
    "sparsify": ("cfg.json", "k"),
    "llamascopium": ("config.json", "top_k"),
    "dictionary_learning": ("config.json", "k"),
}
"""Where each format says k."""


def with_k_beyond(folder: Path, name: str) -> Path:
    """A TopK dictionary in this format whose k, 50, is more than it has features."""
    save(random_dictionary("topk"), folder, format=name)
    file, key = K_BEYOND[name]
    config = json.loads((folder / file).read_text())
    config.get("trainer", config)[key] = 50
    (folder / file).write_text(json.dumps(config))
    if name == "dictionary_learning":  # which says it in both files
        weights = torch.load(folder / "ae.pt", weights_only=True)
        torch.save(weights | {"k": torch.tensor(50, dtype=torch.int)}, folder / "ae.pt")
    return folder


@dataclass(frozen=True)
class Foreign:
    """What the libraries wrote, and what they made of x."""

    folder: Path
    x: torch.Tensor
    results: dict[str, torch.Tensor]

    def of(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and reconstruction of x by the library, of the dictionary at LIBRARY/NAME."""
        return self.results[f"{name}.encode"], self.results[f"{name}.decode"]


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    """Dictionaries of all libraries, and ours in all formats, with what each computes from them."""
    folder = tmp_path_factory.mktemp("foreign")
    x = torch.from_numpy(
        np.random.default_rng(2).standard_normal((200, D_MODEL)).astype(np.float32)
    )
    save_file({"x": x}, folder / "x.safetensors")
    for name, kinds in WRITTEN.items():
        for kind in kinds:
            save(random_dictionary(kind), folder / "ours" / name / kind, format=name)
    for name in K_BEYOND:
        save(
            load(with_k_beyond(folder / "k-beyond" / name, name)),
            folder / "ours" / "homolog" / f"k-beyond-{name}",
        )
    for name in LLAMASCOPIUM:
        llamascopium_folder(folder / "llamascopium", name)
    command = [sys.executable, "-W", "ignore", str(ORACLE), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"a library that is a development dependency failed:\n{done.stderr[-3000:]}"
    )
    return Foreign(folder, x, load_file(folder / "results.safetensors"))
