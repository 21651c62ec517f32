"""A language model as judge: explains a feature, rates it, and is tested on texts that it has not
seen.
"""

from homolog.analyses.explanations.asking import Answer, Budget, Endpoint, Question, Tally, ask
from homolog.analyses.explanations.judge import JUDGED_SCHEMA, Case, cases, estimate, judge
from homolog.analyses.explanations.prompts import VERSION

__all__ = [
    "JUDGED_SCHEMA",
    "VERSION",
    "Answer",
    "Budget",
    "Case",
    "Endpoint",
    "Question",
    "Tally",
    "ask",
    "cases",
    "estimate",
    "judge",
]
