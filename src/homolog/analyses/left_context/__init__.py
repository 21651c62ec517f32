"""How much of the text before it does a feature need?"""

from __future__ import annotations

from homolog.analyses.analysis import Analysis, each_model, interpreted, one_document
from homolog.record.tables import LEFT_CONTEXT

ANALYSIS = Analysis(
    name="left_context",
    title="cut left context",
    tables=(LEFT_CONTEXT,),
    wanted=interpreted("context_tokens"),
    left_out=one_document(
        "match",
        "the left context that features need is not measured: it is exchanged for another "
        "document's",
    ),
    units=each_model,
    measure="homolog.analyses.left_context.measure:measure_model",
    seconds=lambda work: work.read(work.asked.context_tokens),
    chapter="Meaning",
)
