"""Tasks as clean and corrupt prompts with answers, for circuit analysis."""

from homolog.corpus.tasks.jsonl import read_pairs
from homolog.corpus.tasks.make import TASKS, make_task
from homolog.corpus.tasks.natural import natural_induction
from homolog.corpus.tasks.pairs import PromptPairs, ordinary_ids
from homolog.corpus.tasks.random_tokens import CORRUPTIONS, associative_recall, induction
from homolog.corpus.tasks.templates import greater_than, ioi, single_tokens

__all__ = [
    "CORRUPTIONS",
    "TASKS",
    "PromptPairs",
    "associative_recall",
    "greater_than",
    "induction",
    "ioi",
    "make_task",
    "natural_induction",
    "ordinary_ids",
    "read_pairs",
    "single_tokens",
]
