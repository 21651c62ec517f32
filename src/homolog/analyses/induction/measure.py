"""How one model does induction: circuit by path patching, Off-by-One, discovery by attribution.

Some edges of discovery are patched for real, so that scores stand beside effects.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import polars as pl

from homolog.analyses.analysis import Tables
from homolog.analyses.induction.attention import attention_rows
from homolog.analyses.material import Material
from homolog.circuits.discovery import Discovery, discover
from homolog.circuits.induction import Circuit, trace_induction
from homolog.circuits.off_by_one import OffByOne, off_by_one
from homolog.circuits.prompts import Prompts, Unable
from homolog.circuits.recall import recall
from homolog.models import LanguageModel
from homolog.record.circuits import DISCOVERED, INDUCTION, correlation_column
from homolog.record.recipe import Circuits
from homolog.record.tables import CIRCUITS, EDGES, EFFECTS, HIDDEN_ATTENTION, OFFSETS, ROLES

KEPT_EDGES = 200  # of each model, beside those that were patched for real
logger = logging.getLogger("homolog")


def measure_model(material: Material, name: str) -> Tables:
    """Task: the circuit of a model, the Off-by-One test, and the edges of discovery."""
    return trace(material.model(name), name, material.recipe.circuits, material.seed)


def trace(
    model: LanguageModel, name: str, settings: Circuits, seed: int
) -> dict[str, pl.DataFrame]:
    """The tables of one model; only a row of `circuits` where it cannot do the task."""
    prompts = Prompts(settings.n_prompts, settings.length, settings.repeat, seed, settings.batch)
    own = {"model": name, "architecture": model.architecture}
    about = own | {
        "n_layers": model.n_layers,
        "task": INDUCTION,
        "n_prompts": settings.n_prompts,
        "length": settings.length,
        "repeat": settings.repeat,
    }
    made = (CIRCUITS, EFFECTS, ROLES, OFFSETS, EDGES, HIDDEN_ATTENTION)
    tables = {table.name: table.frame() for table in made}
    try:
        circuit = trace_induction(model, prompts)
    except Unable as unable:
        logger.warning("%s", unable)
        row = about | unable.ability.columns() | {"able": False, "reason": unable.requirement}
        return tables | {CIRCUITS.name: CIRCUITS.frame([row])}
    offset = off_by_one(model, prompts, circuit.key)
    discoveries: dict[str, Discovery] = {}
    for corruption in DISCOVERED:
        pairs = prompts.pairs(model, corruption)[: settings.discovery_prompts]
        n = settings.validated_edges
        discoveries[corruption] = discover(model, pairs, n_top=n, n_random=n, seed=seed)
    effects = [own | {"task": INDUCTION} | r for e in circuit.effects for r in e.rows(seed)]
    constant = {name: pl.lit(value) for name, value in own.items()}
    edges = [
        EDGES.frame(_kept(discovery).with_columns(corruption=pl.lit(corruption), **constant))
        for corruption, discovery in discoveries.items()
    ]
    return {
        CIRCUITS.name: CIRCUITS.frame([about | _circuit_row(circuit, offset, discoveries)]),
        EFFECTS.name: EFFECTS.frame(effects),
        ROLES.name: ROLES.frame([own | role.columns() for role in circuit.roles]),
        OFFSETS.name: OFFSETS.frame([own | r for part in offset.profiles for r in part.rows()]),
        EDGES.name: pl.concat(edges),
        HIDDEN_ATTENTION.name: HIDDEN_ATTENTION.frame(
            [own | row for row in attention_rows(model, prompts, circuit.key)]
        ),
    }


def _circuit_row(
    circuit: Circuit, offset: OffByOne, discoveries: Mapping[str, Discovery]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "able": True,
        "reason": "",
        "key": circuit.key,
        "discovery_recall": recall(circuit, discoveries),
    }
    row |= circuit.ability.columns() | offset.columns()
    score = circuit.faithfulness.score
    row |= score.columns("faithfulness") | circuit.null.columns("null")
    row["faithful"] = circuit.null.is_beaten_by(score)
    for corruption, discovery in discoveries.items():
        for group in discovery.correlation.iter_rows(named=True):
            for kind in ("pearson", "spearman"):
                row[correlation_column(corruption, kind, group["edges"])] = group[kind]
    return row


def _kept(discovery: Discovery) -> pl.DataFrame:
    """Edges that were patched for real, then the strongest of the others."""
    keys = ["sender", "receiver", "tap", "position"]
    patched, strongest = discovery.validation, discovery.edges.head(KEPT_EDGES)
    rest = strongest.join(patched, on=keys, how="anti", nulls_equal=True)
    return pl.concat([patched, rest], how="diagonal_relaxed")
