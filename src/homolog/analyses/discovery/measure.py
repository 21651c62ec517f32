"""Discovery by attribution in one model, on the prompts of its induction circuit.

Some edges are patched for real, so that scores stand beside effects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from homolog.analyses.analysis import Tables
from homolog.analyses.material import Material
from homolog.circuits.discovery import Discovery, discover
from homolog.circuits.prompts import Prompts
from homolog.circuits.recall import LOOKED_FOR, found_again
from homolog.models import LanguageModel
from homolog.record.circuits import DISCOVERED, correlation_column
from homolog.record.recipe import Circuits
from homolog.record.tables import CIRCUITS, DISCOVERIES, EDGES, ROLES

KEPT_EDGES = 200  # of each model, beside those that were patched for real


def measure_model(material: Material, name: str) -> Tables:
    """Task: the edges of a model, where path patching found it able."""
    if not material.table(CIRCUITS).filter(model=name)["able"].any():
        return {table.name: table.frame() for table in (DISCOVERIES, EDGES)}
    parts = material.table(ROLES).filter(model=name).select("role", "component").rows()
    return scored(material.model(name), name, parts, material.recipe.circuits, material.seed)


def scored(
    model: LanguageModel,
    name: str,
    parts: Iterable[tuple[str, str]],
    settings: Circuits,
    seed: int,
) -> dict[str, pl.DataFrame]:
    """The tables of one model.  parts: role and component of what path patching named."""
    prompts = Prompts(settings.n_prompts, settings.length, settings.repeat, seed, settings.batch)
    known = list(parts)
    rows, edges = [], [EDGES.frame()]
    for corruption in DISCOVERED:
        pairs = prompts.pairs(model, corruption)[: settings.discovery_prompts]
        n = settings.validated_edges
        found = discover(model, pairs, n_top=n, n_random=n, seed=seed)
        own = {"model": name, "architecture": model.architecture, "corruption": corruption}
        n_named, n_found = found_again(
            [component for role, component in known if role in LOOKED_FOR[corruption]], found
        )
        counted = {"n_prompts": len(pairs), "n_edges": len(found.edges)}
        counted |= {"n_named": n_named, "n_found": n_found}
        rows.append(own | counted | _correlations(found))
        constant = {key: pl.lit(value) for key, value in own.items()}
        edges.append(EDGES.frame(_kept(found).with_columns(**constant)))
    return {DISCOVERIES.name: DISCOVERIES.frame(rows), EDGES.name: pl.concat(edges)}


def _correlations(found: Discovery) -> dict[str, Any]:
    return {
        correlation_column(kind, group["edges"]): group[kind]
        for group in found.correlation.iter_rows(named=True)
        for kind in ("pearson", "spearman")
    }


def _kept(discovery: Discovery) -> pl.DataFrame:
    """Edges that were patched for real, then the strongest of the others."""
    keys = ["sender", "receiver", "tap", "position"]
    patched, strongest = discovery.validation, discovery.edges.head(KEPT_EDGES)
    rest = strongest.join(patched, on=keys, how="anti", nulls_equal=True)
    return pl.concat([patched, rest], how="diagonal_relaxed")
