"""Runs the real libraries in a process of its own (their imports warn).

    python foreign_saes.py FOLDER

FOLDER/x.safetensors holds x (token, d_model).  Every autoencoder that a library offers is made with
random weights and saved with the library's own code at FOLDER/LIBRARY/NAME; what lies at
FOLDER/ours/LIBRARY/NAME was saved by homolog. Both are loaded by the library, and
FOLDER/results.safetensors gets what it encodes and decodes of x, under "LIBRARY/NAME.encode" and
"....decode", with "ours/" in front for ours.  llamascopium is used where it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

D_SAE, K, SCALE, LAYER = 40, 7, 0.4, 2
RESULTS: dict[str, torch.Tensor] = {}


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Weights in general position; thresholds that some pre-activations pass and some do not."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * (0.3 if "W_" in name else 0.5)
            )
            if name.endswith("threshold"):
                parameter.copy_(parameter.abs() + 0.1)


def note(name: str, f: torch.Tensor, x: torch.Tensor) -> None:
    RESULTS[f"{name}.encode"], RESULTS[f"{name}.decode"] = f.detach(), x.detach()


def sae_lens(x: torch.Tensor, folder: Path) -> None:
    import sae_lens as lib
    from sae_lens.training.activation_scaler import ActivationScaler

    d_in = x.shape[1]
    widths = {"d_in": d_in, "d_sae": D_SAE}
    cases = {
        "standard": lib.StandardSAE(lib.StandardSAEConfig(**widths)),
        "standard-uncentred": lib.StandardSAE(
            lib.StandardSAEConfig(**widths, apply_b_dec_to_input=False)
        ),
        "topk": lib.TopKSAE(lib.TopKSAEConfig(**widths, k=K)),
        "topk-by-norm": lib.TopKSAE(
            lib.TopKSAEConfig(**widths, k=K, rescale_acts_by_decoder_norm=True)
        ),
        "jumprelu": lib.JumpReLUSAE(lib.JumpReLUSAEConfig(**widths)),
        "jumprelu-uncentred": lib.JumpReLUSAE(
            lib.JumpReLUSAEConfig(**widths, apply_b_dec_to_input=False)
        ),
        "gated": lib.GatedSAE(lib.GatedSAEConfig(**widths)),
        "gated-uncentred": lib.GatedSAE(lib.GatedSAEConfig(**widths, apply_b_dec_to_input=False)),
    }
    for i, (name, sae) in enumerate(cases.items()):
        randomise(sae, i)
        name_model(sae)
        sae.save_model(folder / name)
    trained = {
        "batchtopk": (lib.BatchTopKTrainingSAE, lib.BatchTopKTrainingSAEConfig, {}),
        "matryoshka": (
            lib.MatryoshkaBatchTopKTrainingSAE,
            lib.MatryoshkaBatchTopKTrainingSAEConfig,
            {"matryoshka_widths": [10, D_SAE]},
        ),
    }
    for i, (name, (kind, config, more)) in enumerate(trained.items()):
        sae = kind(config(**widths, k=K, rescale_acts_by_decoder_norm=True, **more))
        randomise(sae, 20 + i)
        name_model(sae)
        sae.topk_threshold = torch.tensor(0.8, dtype=torch.double)
        sae.save_model(folder / f"{name}-checkpoint")
        sae.save_inference_model(folder / name)
    for name in [*cases, *trained]:
        loaded = lib.SAE.load_from_disk(folder / name)
        f = loaded.encode(x)
        note(f"sae_lens/{name}", f, loaded.decode(f))
        if name in trained:
            note(f"sae_lens/{name}-checkpoint", f, loaded.decode(f))
    # a checkpoint whose activations were scaled in training: the factor lies beside it
    scaled = lib.StandardSAE(
        lib.StandardSAEConfig(**widths, normalize_activations="expected_average_only_in")
    )
    randomise(scaled, 30)
    name_model(scaled)
    scaled.save_model(folder / "standard-scaled")
    scaler = ActivationScaler()
    scaler.scaling_factor = SCALE
    scaler.save(str(folder / "standard-scaled" / "activation_scaler.json"))
    f = scaled.encode(scaler(x))
    note("sae_lens/standard-scaled", f, scaler.unscale(scaled.decode(f)))
    old_topk(lib, x, folder, cases["topk"], widths)


def name_model(sae) -> None:
    sae.cfg.metadata.model_name, sae.cfg.metadata.hook_name = (
        "tiny",
        f"blocks.{LAYER}.hook_resid_post",
    )


def old_topk(lib, x: torch.Tensor, folder: Path, sae, widths: dict) -> None:
    """The same TopK in the configuration of versions before 6."""
    (folder / "topk-old").mkdir()
    save_file(sae.state_dict(), folder / "topk-old" / "sae_weights.safetensors")
    old = {
        "model_name": "tiny",
        "hook_point": f"blocks.{LAYER}.hook_resid_post",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "normalize_activations": False,
        "dtype": "torch.float32",
    }
    (folder / "topk-old" / "cfg.json").write_text(json.dumps(widths | old))
    loaded = lib.SAE.load_from_disk(folder / "topk-old")
    f = loaded.encode(x)
    note("sae_lens/topk-old", f, loaded.decode(f))


def sae_lens_ours(x: torch.Tensor, folder: Path) -> None:
    from sae_lens import SAE

    for path in sorted(folder.iterdir()):
        sae = SAE.load_from_disk(path)
        f = sae.encode(x)
        note(f"ours/homolog/{path.name}", f, sae.decode(f))
        RESULTS[f"ours/homolog/{path.name}.layer"] = torch.tensor(sae.cfg.metadata.homolog["layer"])


def sparsify_dense(sae, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    top, index, _ = sae.encode(x)
    return torch.zeros(len(x), sae.num_latents).scatter(1, index, top), sae.decode(top, index)


def sparsify(x: torch.Tensor, folder: Path, ours: Path) -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    for i, name in enumerate(("layers.2", "layers.2.mlp")):
        sae = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=D_SAE, k=K))
        randomise(sae, 40 + i)
        sae.save_to_disk(folder / name)
    (folder / "config.json").write_text(
        json.dumps({"model": "owner/tiny", "revision": "main", "sae": {}})
    )
    for kind, config in (
        ("groupmax", {"activation": "groupmax"}),
        ("transcode", {"transcode": True}),
        ("skip", {"skip_connection": True}),
    ):
        SparseCoder(x.shape[1], SparseCoderConfig(num_latents=D_SAE, k=4, **config)).save_to_disk(
            folder / kind
        )
    note("sparsify/layers.2", *sparsify_dense(SparseCoder.load_from_disk(folder / "layers.2"), x))
    note("ours/sparsify/topk", *sparsify_dense(SparseCoder.load_from_disk(ours / "topk"), x))


def dictionary_learning(x: torch.Tensor, folder: Path, ours: Path) -> None:
    """Its package imports nnsight, for buffers that are not needed here; its modules do not."""
    spec = importlib.util.find_spec("dictionary_learning")
    assert spec is not None and spec.submodule_search_locations is not None
    package = types.ModuleType("dictionary_learning")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["dictionary_learning"] = package
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k as batch
    from dictionary_learning.trainers import gdm, jumprelu, matryoshka_batch_top_k, standard, top_k

    common = {
        "steps": 5000,
        "activation_dim": x.shape[1],
        "dict_size": D_SAE,
        "layer": LAYER,
        "lm_name": "owner/tiny",
        "device": "cpu",
        "submodule_name": f"resid_post_layer_{LAYER}",
    }
    trainers = {
        "AutoEncoder": standard.StandardTrainer(**common),
        "AutoEncoderTopK": top_k.TopKTrainer(**common, k=K),
        "BatchTopKSAE": batch.BatchTopKTrainer(**common, k=K),
        "MatryoshkaBatchTopKSAE": matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer(
            **common, k=K, group_fractions=[0.25, 0.75]
        ),
        "GatedAutoEncoder": gdm.GatedSAETrainer(**common),
        "JumpReluAutoEncoder": jumprelu.JumpReluTrainer(**common),
    }
    classes = {name: trainer.ae for name, trainer in trainers.items()}
    classes["AutoEncoderNew"] = dictionary.AutoEncoderNew(x.shape[1], D_SAE)
    for i, (name, ae) in enumerate(classes.items()):
        randomise(ae, 60 + i)
        if "BatchTopK" in name:
            ae.threshold.fill_(0.9)
        if "scale_biases" in dir(ae):  # as after a training on normalised activations
            with torch.no_grad():
                ae.scale_biases(1.7)
        (folder / name).mkdir(parents=True)
        torch.save({k: v.cpu() for k, v in ae.state_dict().items()}, folder / name / "ae.pt")
        plain = {
            "dict_class": name,
            "activation_dim": x.shape[1],
            "dict_size": D_SAE,
            "layer": LAYER,
        }
        config = trainers[name].config if name in trainers else plain
        (folder / name / "config.json").write_text(
            json.dumps({"trainer": config, "buffer": {"io": "out"}})
        )
        loaded = type(ae).from_pretrained(folder / name / "ae.pt")
        f = loaded.encode(x)
        note(f"dictionary_learning/{name}", f, loaded.decode(f))
    for path in sorted(ours.iterdir()):
        name = json.loads((path / "config.json").read_text())["trainer"]["dict_class"]
        loaded = type(classes[name]).from_pretrained(path / "ae.pt")
        f = loaded.encode(x)
        note(f"ours/dictionary_learning/{path.name}", f, loaded.decode(f))


def llamascopium(x: torch.Tensor, folder: Path, ours: Path) -> None:
    """Folders of its new layout that the tests have built, and ours, as it reads them itself."""
    from llamascopium.models.sae import SparseAutoEncoder

    for place, name in ((folder, "llamascopium"), (ours, "ours/llamascopium")):
        for path in sorted(path for path in place.iterdir() if (path / "config.json").is_file()):
            sae = SparseAutoEncoder.from_pretrained(str(path))
            hook = sae.cfg.hook_point_in
            batch, scales = sae.normalize_activations({hook: x}, return_scale_factor=True)
            f = sae.encode(batch[hook])
            note(
                f"{name}/{path.name}",
                f,
                sae.denormalize_activations({hook: sae.decode(f)}, scales)[hook],
            )


def main() -> None:
    folder = Path(sys.argv[1])
    x = load_file(folder / "x.safetensors")["x"]
    ours = folder / "ours"
    with torch.no_grad():
        sae_lens(x, folder / "sae_lens")
        sae_lens_ours(x, ours / "homolog")
        sparsify(x, folder / "sparsify", ours / "sparsify")
        dictionary_learning(x, folder / "dictionary_learning", ours / "dictionary_learning")
        if importlib.util.find_spec("llamascopium") is not None:
            llamascopium(x, folder / "llamascopium", ours / "llamascopium")
    save_file(
        {name: value.clone() for name, value in RESULTS.items()}, folder / "results.safetensors"
    )


if __name__ == "__main__":
    main()
