"""Crosscoders: one dictionary over the residual streams of several models [Lindsey 2024].

Rows are aligned: row t of every model is the same token, or the same unit of text where tokenizers
differ.  With the streams x_m of models m, scaled to one mean norm and joined,

    x  = (s_1 x_1, s_2 x_2, ...)
    f  = BatchTopK(x W_enc + b_enc),   x'_m = (f W_dec + b_dec)_m / s_m
    L  = mean sum_m s_m^2 ||x_m - x'_m||^2 + the auxiliary loss of dead latents

W_dec[i] is joined too, from a decoder d_m,i for each model, and has norm 1 over all of them: f_i is
the length that latent i adds to the joined stream, by which BatchTopK chooses.  No model counts
more for being wider or louder.  So a crosscoder is a BatchTopK dictionary of the joined stream, and
is trained, encoded and kept in files as one.

A share of the latents is *dedicated* to each model: encoder and decoder are 0 for the others
[Jiralerspong 2026].  How much a latent writes in each model is `Crosscoder.decoder_norms`; whether
it is truly alone where it seems so, `latent_scaling` says.

Sources: Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing",
transformer-circuits.pub; BatchTopK against invented exclusives: Minder et al. 2025, arXiv
2504.02922; dedicated latents: Jiralerspong and Bricken 2026, arXiv 2602.11729.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from scipy import sparse

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.configs import TrainingConfig
from homolog.dictionaries.finite import refuse_not_finite
from homolog.dictionaries.formats import load, save
from homolog.dictionaries.hardware import Precision
from homolog.dictionaries.joint import JointResiduals
from homolog.dictionaries.kinds import batchtopk
from homolog.dictionaries.streams import FACTS, Rows, Streams
from homolog.dictionaries.training.trainer import Checkpoint, Place, TrainingProgress, train
from homolog.errors import InputError


class CrosscoderSettings(batchtopk.Settings):
    """BatchTopK over the joined streams, with latents dedicated to each model."""

    dedicated: float = Field(default=0.05, ge=0, le=0.5)
    """Share of the latents that each model has for itself: their encoder and decoder are 0 in the
    others.  With 0 every latent may write in every model.
    """


@dataclass(frozen=True, eq=False)
class Crosscoder:
    """A trained crosscoder, which takes raw residuals of aligned rows.

    sae: of the joined, scaled stream (width: the sum of the models'); what it says of the models
    stands in its metadata, so that it is the whole of a file.
    """

    sae: SparseAutoencoder

    def __post_init__(self) -> None:
        width = sum(self.streams.widths)
        if width != self.sae.d_model:
            requirement = f"they are those of the joined stream of width {self.sae.d_model}"
            raise InputError("widths", width, requirement, "Check the file.")

    @cached_property
    def streams(self) -> Streams:
        """The models' names, widths and scales."""
        return Streams.of(self.sae.metadata.get(FACTS))

    @property
    def models(self) -> tuple[str, ...]:
        """Names, in the order in which residuals are given."""
        return self.streams.models

    @property
    def n_latents(self) -> int:
        return self.sae.d_sae

    def encode(self, *residuals: Rows, precision: Precision = "auto") -> sparse.csr_array:
        """Latents (token, d_sae), float32 CSR, of raw residuals (token, d_model) of each model.

        Raises InputError where they are not those of the models, row by row, or not finite.
        """
        return self.sae.encode_sparse(self.joined(residuals), precision)

    def decode(self, latents: sparse.csr_array) -> tuple[Rows, ...]:
        """Raw residuals of each model, (token, d_model) float32, from latents (token, d_sae)."""
        joined = torch.from_numpy(latents @ self.sae.W_dec.numpy()) + self.sae.b_dec
        return self.streams.parted(joined)

    def joined(self, residuals: Sequence[Rows]) -> Rows:
        """The stream that `sae` reads: (token, sum of widths), float32."""
        self.streams.check(residuals)
        for model, x in zip(self.models, residuals, strict=True):
            refuse_not_finite(x, f"residuals of {model}")
        return self.streams.joined(residuals)

    def W_dec(self, model: int) -> Float[torch.Tensor, "d_sae d_model"]:
        """What each latent adds to the raw residual stream of a model, per unit of the latent."""
        return self.sae.W_dec[:, self.streams.columns[model]] / self.streams.scales[model]

    @cached_property
    def decoder_norms(self) -> Float[np.ndarray, "model d_sae"]:
        """Norms of the decoders in the scaled streams, where models compare; float64.

        The squares of a latent sum to 1 after training here.
        """
        W_dec = self.sae.W_dec.double()
        norms = [W_dec[:, part].norm(dim=1) for part in self.streams.columns]
        return torch.stack(norms).numpy()

    def save(self, folder: Path | str, *, format: str = "homolog") -> list[Path]:
        """Write it; returns the files.  format: "homolog", or "dictionary_learning" for models of
        one width, whose BatchTopKCrossCoder it then is.
        """
        return save(self.sae, folder, format=format)

    @classmethod
    def load(cls, source: Path | str) -> "Crosscoder":
        """Read a folder, or a repository of the Hub, as `dictionaries.load` does.

        Raises InputError where it holds no crosscoder.
        """
        sae = load(source)
        if FACTS not in sae.metadata:
            requirement, remedy = "it must hold a crosscoder", "Read it by dictionaries.load."
            raise InputError("source", str(source), requirement, remedy)
        return cls(sae)


def train_crosscoder(
    residuals: Mapping[str, Any],
    config: CrosscoderSettings | None = None,
    training: TrainingConfig | None = None,
    *,
    keep: np.ndarray | torch.Tensor | None = None,
    label: str = "crosscoder",
    checkpoint: Checkpoint | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
    on: Place | None = None,
) -> Crosscoder:
    """Train a crosscoder on the residuals of two models or more, on aligned rows.

    residuals: by the model's name, raw (token, d_model), any float dtype: tensors, or layers of
    `StoredResiduals`.  keep (token, bool): rows to use, no special tokens.  label: of the seed, as
    in `train`; the other arguments are those of `train`, and so are the errors.  Raises InputError
    where there are fewer than two models or rows are not as many.
    """
    config, training = config or CrosscoderSettings(), training or TrainingConfig()
    source = JointResiduals(residuals, training, keep)
    streams, names = source.streams, " + ".join(residuals)
    trained = train(
        source,
        config,
        training,
        model=names,
        labels=(label,),
        checkpoint=checkpoint,
        progress=progress,
        on=on,
        columns=dedicated_columns(config, streams),
    )
    (sae,) = trained[label]
    facts = {name: value for name, value in sae.metadata.items() if name != "layer"}
    return Crosscoder(replace(sae, metadata=facts | {FACTS: streams.facts()}))


def dedicated_columns(config: CrosscoderSettings, streams: Streams) -> np.ndarray | None:
    """Columns of the joined stream that each latent reads and writes, (d_sae, 2) int64.

    Shared latents come first, then those of the first model, and so on.  None without dedicated
    ones.  InputError where nothing is left to share.
    """
    each, n_models = int(config.d_sae * config.dedicated), len(streams.models)
    if each == 0:
        return None
    if each * n_models >= config.d_sae:
        requirement = f"{n_models} models have {each} of {config.d_sae} latents each"
        raise InputError("dedicated", config.dedicated, requirement, "Lower it.")
    columns = np.tile([0, sum(streams.widths)], (config.d_sae, 1))
    for model, part in enumerate(streams.columns):
        first = config.d_sae - each * (n_models - model)
        columns[first : first + each] = part.start, part.stop
    return columns
