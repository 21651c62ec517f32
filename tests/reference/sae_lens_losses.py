"""Losses and gradients of the real sae-lens, in a process of its own (its imports warn).

    python sae_lens_losses.py INPUT.safetensors OUTPUT.safetensors

INPUT holds x (token, d_model) and, for each kind, KIND.W_enc, KIND.W_dec, KIND.b_dec and its
vectors.  OUTPUT gets KIND.loss and the gradients under the same names; "auxiliary" is TopK with its
first three features dead.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def trainers(d_model: int, d_sae: int) -> dict[str, Any]:
    import sae_lens as sl
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    widths = {"d_in": d_model, "d_sae": d_sae, "apply_b_dec_to_input": False}
    topk = {"k": 5, "rescale_acts_by_decoder_norm": False, "aux_loss_coefficient": 1.0}
    return {
        "relu": sl.StandardTrainingSAE(sl.StandardTrainingSAEConfig(**widths, l1_coefficient=1.5)),
        "topk": sl.TopKTrainingSAE(sl.TopKTrainingSAEConfig(**widths, **topk)),
        "auxiliary": sl.TopKTrainingSAE(sl.TopKTrainingSAEConfig(**widths, **topk)),
        "batchtopk": BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**widths, **topk)),
        "jumprelu": sl.JumpReLUTrainingSAE(
            sl.JumpReLUTrainingSAEConfig(**widths, jumprelu_bandwidth=0.8, l0_coefficient=0.7)
        ),
        "gated": sl.GatedTrainingSAE(sl.GatedTrainingSAEConfig(**widths, l1_coefficient=1.5)),
    }


def main() -> None:
    from sae_lens.saes.sae import TrainStepInput

    given = load_file(sys.argv[1])
    x, result = given["x"], {}
    d_sae, d_model = given["relu.W_dec"].shape
    for kind, sae in trainers(d_model, d_sae).items():
        weights = {
            key.removeprefix(f"{kind}."): value
            for key, value in given.items()
            if key.startswith(f"{kind}.")
        }
        with torch.no_grad():
            for key, value in weights.items():
                getattr(sae, key).copy_(value)
        step = TrainStepInput(
            sae_in=x,
            coefficients={"l1": 1.5, "l0": 0.7},
            dead_neuron_mask=torch.arange(d_sae) < 3 if kind == "auxiliary" else None,
            n_training_steps=1,
            is_logging_step=False,
        )
        output = sae.training_forward_pass(step)
        output.loss.backward()
        result[f"{kind}.loss"] = output.loss.detach()
        result.update({f"{kind}.{key}": getattr(sae, key).grad for key in weights})
        if (
            kind == "gated"
        ):  # its frozen twin is not frozen there: the decoder's gradient without that term
            sae.zero_grad()
            output = sae.training_forward_pass(step)
            (output.losses["mse_loss"] + output.losses["l1_loss"]).backward()
            result.update({f"{kind}.{key}": getattr(sae, key).grad for key in ("W_dec", "b_dec")})
    save_file(
        {key: value.detach().contiguous().clone() for key, value in result.items()}, sys.argv[2]
    )


if __name__ == "__main__":
    main()
