"""Runs the real sae-lens in a process of its own (its imports warn, and ours turn warnings into errors).

    python sae_lens_oracle.py INPUT.safetensors OUTPUT.safetensors FOLDER...

INPUT holds x (token, d_model) and, for the losses, W_enc, b_enc, W_dec, b_dec.  OUTPUT gets, for each folder,
what sae-lens encodes and decodes, "0.encode", "0.decode", ...; and its losses with their gradients.
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    from sae_lens import (
        SAE,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.saes.sae import TrainStepInput

    given = load_file(sys.argv[1])
    x, result = given.pop("x"), {}
    for i, folder in enumerate(sys.argv[3:]):
        sae = SAE.load_from_disk(folder)
        with torch.no_grad():
            f = sae.encode(x)
            result[f"{i}.encode"], result[f"{i}.decode"] = f, sae.decode(f)
    d_sae, d_model = given["W_dec"].shape
    widths = {"d_in": d_model, "d_sae": d_sae, "apply_b_dec_to_input": False}
    trainers = {
        "relu": StandardTrainingSAE(StandardTrainingSAEConfig(**widths, l1_coefficient=1.5)),
        "topk": TopKTrainingSAE(TopKTrainingSAEConfig(**widths, k=5, rescale_acts_by_decoder_norm=False)),
    }
    for name, sae in trainers.items():
        with torch.no_grad():
            for key, value in given.items():
                getattr(sae, key).copy_(value)
        step = TrainStepInput(
            sae_in=x,
            coefficients={"l1": 1.5},
            dead_neuron_mask=None,
            n_training_steps=1,
            is_logging_step=False,
        )
        loss = sae.training_forward_pass(step).loss
        loss.backward()
        result[f"{name}.loss"] = loss.detach()
        result.update({f"{name}.{key}": getattr(sae, key).grad for key in given})
    save_file({k: v.contiguous() for k, v in result.items()}, sys.argv[2])


if __name__ == "__main__":
    main()
