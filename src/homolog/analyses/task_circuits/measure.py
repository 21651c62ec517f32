"""The circuits of all tasks in one model; a row that says why where there is none."""

from __future__ import annotations

import logging
from typing import Any

import polars as pl

from homolog.analyses.analysis import Tables
from homolog.analyses.material import Material
from homolog.circuits.ability import TaskAbility
from homolog.circuits.prompts import Unable
from homolog.circuits.task_circuit import TaskCircuit, find_circuit, row_of_ability, transfers
from homolog.corpus.tasks.asked import asked_pairs, task_label
from homolog.errors import InputError
from homolog.models import LanguageModel
from homolog.record.recipe import Circuits
from homolog.record.tables import TASK_CIRCUITS, TASK_TABLES, TASK_TRANSFERS

logger = logging.getLogger("homolog")


def measure_model(material: Material, name: str) -> Tables:
    """Task: the circuits of a model."""
    return discover_tasks(material.model(name), name, material.recipe.circuits, material.seed)


def discover_tasks(
    model: LanguageModel, name: str, settings: Circuits, seed: int
) -> dict[str, pl.DataFrame]:
    """The tables of one model, `record.tables.TASK_TABLES`, and of all its tasks."""
    parts: list[dict[str, pl.DataFrame]] = []
    circuits: list[TaskCircuit] = []
    for task in settings.discovered:
        try:
            circuit = _circuit(model, task, settings, seed)
        except _NoCircuit as none:
            logger.warning("%s has no circuit of %s: %s", name, task, none)
            about = {"model": name, "architecture": model.architecture, "task": task_label(task)}
            parts.append({TASK_CIRCUITS.name: TASK_CIRCUITS.frame([about | none.row])})
        else:
            circuits.append(circuit)
            parts.append(circuit.tables(name))
    parts.append({TASK_TRANSFERS.name: transfers(circuits, name)})
    return {
        table.name: pl.concat([table.frame(), *(p[table.name] for p in parts if table.name in p)])
        for table in TASK_TABLES
    }


class _NoCircuit(Exception):
    """Why a model has no circuit of a task, and what of its row is known."""

    def __init__(self, reason: str, row: dict[str, Any]) -> None:
        super().__init__(reason)
        self.row = {"able": False} | row | {"reason": reason}


def _circuit(model: LanguageModel, task: str, settings: Circuits, seed: int) -> TaskCircuit:
    try:
        pairs = asked_pairs(task, model, settings, seed)
    except InputError as error:
        raise _NoCircuit(str(error), {}) from error
    try:
        return find_circuit(model, pairs, settings, seed)
    except Unable as unable:
        assert isinstance(unable.ability, TaskAbility)
        row = row_of_ability(pairs, unable.ability)
        raise _NoCircuit(unable.ability.said, row) from unable
    except InputError as error:
        row = {"n_prompts": len(pairs), "length": pairs.length, "dropped": pairs.dropped_words}
        raise _NoCircuit(str(error), row) from error
