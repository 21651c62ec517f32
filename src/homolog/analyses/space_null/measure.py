"""Layers of two models held against the null of `matching.space_null`, and their diagonal."""

from __future__ import annotations

import numpy as np
import torch

from homolog.analyses.analysis import Tables
from homolog.analyses.material import Material
from homolog.analyses.residuals import Reader, residual_readers
from homolog.analyses.space_null import TOKENS
from homolog.dictionaries import derive_seed
from homolog.matching.diagonal import diagonal_of, diagonal_test
from homolog.matching.space_null import LEAST_DOCUMENTS, SpaceTest, document_rows, space_tests
from homolog.record.tables import SPACE_MODELS, SPACE_TESTS
from homolog.record.tables.matching import SPACE_ALPHA


def measure_space_tests(material: Material, comparison: str, a: str, b: str) -> Tables:
    """Task: every layer of `a` against every layer of `b`.

    No rows where the text holds too few documents for a null.
    """
    *readers, document = residual_readers(material, a, b, TOKENS)
    rows = document_rows(document)
    n_permutations = material.recipe.matching.space_permutations
    tests: dict[str, SpaceTest] = {}
    if len(rows) >= LEAST_DOCUMENTS:
        sides = [
            [_sample(read, layer, rows) for layer in material.layers(model)]
            for read, model in zip(readers, (a, b), strict=True)
        ]
        seed = derive_seed(material.seed, "space null", comparison, a, b)
        tests = space_tests(*sides, n_permutations=n_permutations, seed=seed)
    about = {"comparison": comparison, "model": a, "best_model": b}
    layers = [np.array(material.layers(model)) for model in (a, b)]
    depths = [
        (own + 1) / material.n_layers(model) for own, model in zip(layers, (a, b), strict=True)
    ]
    pairs, models = [], []
    for measure, test in tests.items():
        own = about | {"measure": measure}
        pairs += [own | row for row in _pairs(test, layers, diagonal_of(*depths))]
        found = diagonal_test(test.value, *depths, seed=derive_seed(material.seed, "diagonal"))
        models.append(
            own
            | {"n_documents": len(rows), "n_rows": rows.size, "n_permutations": n_permutations}
            | _most_alike(test, layers)
            | {"diagonal": found.on, "elsewhere": found.off, "diagonal_p": found.p}
        )
    return {
        SPACE_TESTS.name: SPACE_TESTS.frame(pairs),
        SPACE_MODELS.name: SPACE_MODELS.frame(models),
    }


def _sample(read: Reader, layer: int, rows: np.ndarray) -> torch.Tensor:
    """Residuals of a layer at these rows: (document, row, d_model)."""
    return read(layer)[torch.from_numpy(rows)]


def _pairs(test: SpaceTest, layers: list[np.ndarray], diagonal: np.ndarray) -> list[dict]:
    """A row for each pair of layers."""
    names = ("value", "null_mean", "null_high", "excess", "p", "p_max")
    return [
        {"layer": int(own), "best_layer": int(other), "diagonal": bool(diagonal[i, j])}
        | {name: float(getattr(test, name)[i, j]) for name in names}
        for i, own in enumerate(layers[0])
        for j, other in enumerate(layers[1])
    ]


def _most_alike(test: SpaceTest, layers: list[np.ndarray]) -> dict:
    """The pair of layers with the highest excess, and what is said of all of them."""
    known = np.isfinite(test.excess)
    row: dict = {"n_pairs": int(known.sum()), "n_called": int((test.p_max <= SPACE_ALPHA).sum())}
    if known.any():
        i, j = np.unravel_index(np.argmax(np.where(known, test.excess, -np.inf)), known.shape)
        row |= {"layer": int(layers[0][i]), "best_layer": int(layers[1][j])}
        row |= {"value": float(test.value[i, j]), "p_max": float(test.p_max[i, j])}
        row["mean_excess"] = float(test.excess[known].mean())
    return row
