"""The axis legend: one name for each axis, and the array types used at public boundaries.

Axis names, in jaxtyping strings
    batch        prompts or windows
    position     tokens of a window, 0 first
    token        tokens of a stream (windows flattened, special tokens dropped)
    d_model      residual stream
    d_sae        features of a dictionary
    features_a, features_b   features of the two sides of a comparison
    vocabulary   rows of the unembedding
    d_inner      channels of a Mamba mixer
    d_state      state dimensions of a channel
Layer indices count blocks from 0: index 0 is the output of block 0 in every architecture;
embeddings have their own site.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int

Tokens = Int[torch.Tensor, "batch position"]
Residual = Float[torch.Tensor, "batch position d_model"]
Logits = Float[torch.Tensor, "batch position vocabulary"]
Activations = Float[torch.Tensor, "token d_model"]
Features = Float[torch.Tensor, "token d_sae"]
