"""A language model as judge: explains a feature, rates it, and is tested on texts that it has not seen."""

from homolog.interpretation.llm.asking import Answer, Budget, Endpoint, Question, Tally, ask
from homolog.interpretation.llm.judge import JUDGED_SCHEMA, Case, cases, estimate, judge
from homolog.interpretation.llm.prompts import VERSION

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
