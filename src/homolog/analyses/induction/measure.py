"""How one model does induction: its circuit by path patching, Off-by-One, and what is read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import polars as pl

from homolog.analyses.analysis import Tables
from homolog.analyses.induction.attention import attention_rows
from homolog.analyses.material import Material
from homolog.circuits.induction import Circuit, trace_induction
from homolog.circuits.off_by_one import OffByOne, off_by_one
from homolog.circuits.prompts import Prompts, Unable
from homolog.models import LanguageModel
from homolog.record.circuits import INDUCTION, REPLACED
from homolog.record.recipe import Circuits
from homolog.record.tables import CIRCUITS, EFFECTS, HIDDEN_ATTENTION, OFFSETS, ROLES

logger = logging.getLogger("homolog")


def measure_model(material: Material, name: str) -> Tables:
    """Task: the circuit of a model, and the Off-by-One test."""
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
    made = (CIRCUITS, EFFECTS, ROLES, OFFSETS, HIDDEN_ATTENTION)
    tables = {table.name: table.frame() for table in made}
    try:
        circuit = trace_induction(model, prompts)
    except Unable as unable:
        logger.warning("%s", unable)
        row = about | unable.ability.columns() | {"able": False, "reason": unable.requirement}
        return tables | {CIRCUITS.name: CIRCUITS.frame([row])}
    offsets = [off_by_one(model, prompts, circuit.key, token) for token in REPLACED]
    effects = [own | {"task": INDUCTION} | r for e in circuit.effects for r in e.rows(seed)]
    return {
        CIRCUITS.name: CIRCUITS.frame([about | _circuit_row(circuit, offsets)]),
        EFFECTS.name: EFFECTS.frame(effects),
        ROLES.name: ROLES.frame([own | role.columns() for role in circuit.roles]),
        OFFSETS.name: OFFSETS.frame(
            [
                own | {"token": found.token} | row
                for found in offsets
                for profile in found.profiles
                for row in profile.rows()
            ]
        ),
        HIDDEN_ATTENTION.name: HIDDEN_ATTENTION.frame(
            [own | row for row in attention_rows(model, prompts, circuit.key)]
        ),
    }


def _circuit_row(circuit: Circuit, offsets: Sequence[OffByOne]) -> dict[str, Any]:
    row: dict[str, Any] = {"able": True, "reason": "", "key": circuit.key}
    row |= circuit.ability.columns()
    for found in offsets:
        row |= found.columns()
    score = circuit.faithfulness.score
    row |= score.columns("faithfulness") | circuit.null.columns("null")
    row["faithful"] = circuit.null.is_beaten_by(score)
    return row
