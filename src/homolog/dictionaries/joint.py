"""The residual streams of several models as one, on aligned rows: what a crosscoder reads.

    x = (s_1 x_1, s_2 x_2, ...),    mean ||s_m (x_m - mean x_m)|| = sqrt(mean width of the models)

No model then counts more than another in a squared error, however wide it is, and the joined stream
has the norm that training expects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from homolog.dictionaries.configs import TrainingConfig
from homolog.dictionaries.seeds import generator
from homolog.dictionaries.sources import ShuffledRows, probe_digest
from homolog.dictionaries.streams import Streams
from homolog.dictionaries.training.fold import estimate_normalisation
from homolog.errors import InputError


class _Joined:
    """Rows of several models, joined when they are gathered."""

    def __init__(self, parts: Sequence[Any], streams: Streams) -> None:
        self.parts, self.streams = parts, streams
        self.shape = (parts[0].shape[0], sum(streams.widths))

    def index_select(self, dim: int, index: torch.Tensor, /) -> torch.Tensor:
        """The rows `index`, in its order, joined and scaled.  dim is 0."""
        return self.streams.joined([part.index_select(dim, index) for part in self.parts])


class JointResiduals(ShuffledRows):
    """The joined stream as a source of training: one layer, rows in a new random order each epoch.

    residuals: by the model's name, (token, d_model), tensors or layers of `StoredResiduals`.
    keep (token, bool): rows to use.  Scales are estimated on `training.scale_sample` rows.  Raises
    InputError where there are fewer than two models, rows are not as many, or keep is of others.
    """

    def __init__(
        self,
        residuals: Mapping[str, Any],
        training: TrainingConfig,
        keep: np.ndarray | torch.Tensor | None = None,
    ) -> None:
        remedy = "Give those of two models or more, on the same tokens or units."
        if len(residuals) < 2:
            value = ", ".join(residuals) or "none"
            raise InputError("residuals", value, "a crosscoder is of two models or more", remedy)
        parts = list(residuals.values())
        shapes = [tuple(part.shape) for part in parts]
        if any(len(shape) != 2 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
            requirement = "all must be (token, d_model) with equal numbers of tokens"
            raise InputError("residuals", shapes, requirement, remedy)
        n_rows = shapes[0][0]
        kept = np.ones(n_rows, bool) if keep is None else np.asarray(keep, bool).reshape(-1)
        if kept.size != n_rows or kept.sum() < 2:
            value = f"{int(kept.sum())} of {kept.size}"
            requirement = f"it must mark two at least of {n_rows} rows"
            raise InputError("keep", value, requirement, "Mark the rows to use.")
        rows, name = np.flatnonzero(kept), " + ".join(residuals)
        order = generator(training.seed, name, "scale").permutation(rows)
        sample = torch.from_numpy(np.sort(order[: training.scale_sample]))
        width = math.sqrt(sum(shape[1] for shape in shapes) / len(shapes))
        scales = []
        for model, part in residuals.items():
            some = part.index_select(0, sample)
            normal = estimate_normalisation(some, f"residuals of {model}")
            scales.append(normal.scale * width / math.sqrt(part.shape[1]))
        widths = tuple(int(shape[1]) for shape in shapes)
        self.streams = Streams(tuple(residuals), widths, tuple(scales))
        super().__init__([_Joined(parts, self.streams)], [0], rows, training.seed, name)

    def _probes(self) -> list[str]:
        return [probe_digest(layer, self.rows) for layer in self.layers]
