"""Crosscoders of two models, their latents, and what those say of the features of a study."""

from __future__ import annotations

from homolog.record.tables.describing import BOOL, F32, F64, I32, I64, TEXT, table

OF_ALL = "shared"
"""The owner of a latent that every model has."""
_PAIR = {
    "model": (TEXT, "the first of the two models"),
    "best_model": (TEXT, "the second"),
}
CROSSCODERS = table(
    "crosscoders",
    "pair of models with a crosscoder",
    **_PAIR,
    layer=(I32, "block of the first that it reads"),
    best_layer=(I32, "block of the second"),
    d_sae=(I32, "latents"),
    n_trained=(I64, "rows of the training text that it read, each `epochs` times"),
    n_rows=(I64, "rows of the matched text on which all else is measured"),
    l0=(F64, "latents active on a row of these"),
    explained_variance=(F64, "of the residuals of the first model"),
    best_explained_variance=(F64, "of those of the second"),
)
CROSSCODER_LATENTS = table(
    "crosscoder_latents",
    "latent of a crosscoder",
    **_PAIR,
    latent=(I32, "its number"),
    n_active=(I64, "rows on which it is active"),
    by_norm=(TEXT, "which model has it, or shared, by the norms of its decoders"),
    owner=(TEXT, "the same, where latent scaling agrees that it is not in the other"),
    norm=(F64, "of its decoder in the first model, in the scaled stream"),
    best_norm=(F64, "in the second; the squares sum to 1"),
    error=(F64, "length of what follows it in what other latents leave of the first"),
    best_error=(F64, "the same in the second; NaN where it is hardly active"),
    reconstruction=(F64, "length of what follows it in the reconstruction of the first"),
    best_reconstruction=(F64, "the same in the second"),
)
CROSSCODER_FEATURES = table(
    "crosscoder_features",
    "feature of the two blocks that a crosscoder reads",
    model=(TEXT, "the feature's model"),
    layer=(I32, "its block"),
    feature=(I32, "the feature"),
    best_model=(TEXT, "the other model"),
    homolog=(BOOL, "whether it has a homolog there, in any block; null without a verdict"),
    latent=(I32, "the latent that correlates with it best; -1 where undefined"),
    r=(F32, "their correlation on the matched text"),
    owner=(TEXT, "which model has that latent, or shared, as in crosscoder_latents"),
)
