"""The documented forward pass of a llamascopium autoencoder, one number at a time.

Activations are multiplied by sqrt(d_model) over their average norm, separately at the input and the
output; features are chosen by their pre-activations, or by those times the norms of their decoder
rows; the reconstruction is divided by the output's factor.  A scalar threshold (old files) bounds
what is left after all factors have been folded into the weights: first the average norms, then the
decoder norms.
"""

from __future__ import annotations

import math

import numpy as np


def encode_decode(
    x, W_E, b_E, W_D, b_D, config: dict, norms: tuple[float, float], log_threshold=None
):
    """Features and reconstructions of x (token, d_model), as float64 arrays."""
    d_model, d_sae = W_E.shape
    s, t = (
        math.sqrt(d_model) / norm if config["norm_activation"] == "dataset-wise" else 1.0
        for norm in norms
    )
    lengths = [math.sqrt(sum(float(v) ** 2 for v in row)) for row in W_D]
    features, outputs = np.zeros((len(x), d_sae)), np.zeros((len(x), d_model))
    for token, vector in enumerate(np.asarray(x, np.float64)):
        values, chosen_by = [], []
        for i in range(d_sae):
            value = float(b_E[i])
            for j in range(d_model):
                subtracted = (
                    float(b_D[j]) if config.get("apply_decoder_bias_to_pre_encoder") else 0.0
                )
                value += (s * float(vector[j]) - subtracted) * float(W_E[j, i])
            values.append(value)
            chosen_by.append(
                value * lengths[i] if config["sparsity_include_decoder_norm"] else value
            )
        for i in _active(values, chosen_by, lengths, config, (s, t), log_threshold):
            features[token, i] = values[i]
        for j in range(d_model):
            total = float(b_D[j]) + sum(features[token, i] * float(W_D[i, j]) for i in range(d_sae))
            outputs[token, j] = total / t
    return features, outputs


def _active(values, chosen_by, lengths, config, scales, log_threshold) -> list[int]:
    """Which features of a token fire."""
    s, t = scales
    candidates = [i for i, g in enumerate(chosen_by) if g > 0]
    if config["act_fn"] == "relu":
        return candidates
    if config["act_fn"] == "topk":
        return sorted(candidates, key=lambda i: -chosen_by[i])[: config["top_k"]]
    if log_threshold is not None:
        return [i for i in candidates if chosen_by[i] > math.exp(float(log_threshold[i]))]
    by_norm = config["sparsity_include_decoder_norm"]
    folded = [
        value / s * (length * s / t if by_norm else 1)
        for value, length in zip(values, lengths, strict=True)
    ]
    return [i for i in candidates if folded[i] > config["jump_relu_threshold"]]
