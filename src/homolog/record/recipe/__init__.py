"""Recipes: everything that decides the numbers of a run, as one TOML file of flat tables.

A recipe is a value: frozen, hashed by its contents, stored in run.json.  `pipeline.recipes` reads
them.  A table that the command line or another study shares is a class that both inherit.

    study         Recipe: all tables, and what must hold between them
    models        [[models]]
    text          [corpus]
    dictionaries  [sae], [grid]
    judging       [gates], [controls], [matching]
    meaning       [circuits], [interpretation], [crosscoder], [alignment_search]
    machine       [run]
    commands      what `homolog circuits`, `sae train` and `sae eval` decide
"""

from homolog.record.recipe.commands import CircuitRecipe, EvaluationRecipe, SaeRecipe
from homolog.record.recipe.dictionaries import Dictionaries, Grid, GridDictionaries, Sae, Training
from homolog.record.recipe.judging import Controls, Gates, Matching
from homolog.record.recipe.machine import Machine, RunSettings
from homolog.record.recipe.meaning import AlignmentSearch, Circuits, Crosscoders, Interpretation
from homolog.record.recipe.models import Model, WindowBeginning
from homolog.record.recipe.study import Recipe
from homolog.record.recipe.text import Corpus, SinkMask, TextSource

__all__ = [
    "AlignmentSearch",
    "CircuitRecipe",
    "Circuits",
    "Controls",
    "Corpus",
    "Crosscoders",
    "Dictionaries",
    "EvaluationRecipe",
    "Gates",
    "Grid",
    "GridDictionaries",
    "Interpretation",
    "Machine",
    "Matching",
    "Model",
    "Recipe",
    "RunSettings",
    "Sae",
    "SaeRecipe",
    "SinkMask",
    "TextSource",
    "Training",
    "WindowBeginning",
]
