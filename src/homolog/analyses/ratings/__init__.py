"""What does a language model make of the features: can it say when they and their partners fire?

It explains a feature, rates it, and is tested on texts that it has not seen, of the feature and of
its best partner.  No study asks one by
itself: `homolog rate` does, of a finished run, and what reads the ratings is then made again.
"""

from homolog.analyses.analysis import Analysis
from homolog.analyses.ratings.asking import Answer, Budget, Endpoint, Question, Tally, ask
from homolog.analyses.ratings.prompts import VERSION
from homolog.analyses.ratings.summary import section_values
from homolog.record.tables import RATINGS

ANALYSIS = Analysis(
    name="ratings",
    title="explain and rate features",
    tables=(RATINGS,),
    wanted=lambda recipe: False,
    chapter="Meaning",
    values=section_values,
)

__all__ = ["VERSION", "Answer", "Budget", "Endpoint", "Question", "Tally", "ask"]
