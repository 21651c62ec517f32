"""Tasks as clean and corrupt prompts with answers, for circuit analysis.

    >>> from pathlib import Path
    >>> import homolog
    >>> from homolog.corpus.tasks import TASKS, make_task
    >>> list(TASKS)
    ['induction', 'natural_induction', 'ioi', 'greater_than', 'associative_recall', 'agreement']
    >>> TASKS["ioi"].title, TASKS["ioi"].source
    ('Indirect object identification', 'Wang et al. 2022, arXiv 2211.00593')
    >>> print(TASKS["ioi"].prompt)
    "Then, Ann and Bob went to the store. Bob gave a drink to" calls for " Ann"

    >>> model = homolog.load("zoo:transformer-s0")
    >>> pairs = make_task("induction", model, 64, length=16, repeat=4)
    >>> pairs.clean.shape, pairs.corrupt.shape, pairs.answer.shape
    (torch.Size([64, 16]), torch.Size([64, 16]), torch.Size([64]))
    >>> TASKS["natural_induction"].options
    ['windows', 'length', 'max_bigram']
    >>> len(make_task("natural-induction", model, 8, windows="zoo:demo"))
    8

Your own prompts are a .jsonl file, one object per line; all of them by default:

    >>> line = '{"clean": [5, 6, 7], "corrupt": [8, 6, 7], "answer": 6}'
    >>> _ = Path("mine.jsonl").write_text(line)
    >>> len(make_task("mine.jsonl", model))
    1

A new task is a file here, with a function like the others and its `PromptTask`, a word in
`make.TASKS`, and its name in `record.circuits.TASK_NAMES`, which help and settings show.
"""

from homolog.corpus.tasks.agreement import agreement
from homolog.corpus.tasks.indirect_object import ioi
from homolog.corpus.tasks.jsonl import read_pairs
from homolog.corpus.tasks.make import TASKS, make_task
from homolog.corpus.tasks.natural import natural_induction
from homolog.corpus.tasks.pairs import PromptPairs, ordinary_ids
from homolog.corpus.tasks.random_tokens import CORRUPTIONS, associative_recall, induction
from homolog.corpus.tasks.task import PromptTask
from homolog.corpus.tasks.years import greater_than

__all__ = [
    "CORRUPTIONS",
    "TASKS",
    "PromptPairs",
    "PromptTask",
    "agreement",
    "associative_recall",
    "greater_than",
    "induction",
    "ioi",
    "make_task",
    "natural_induction",
    "ordinary_ids",
    "read_pairs",
]
