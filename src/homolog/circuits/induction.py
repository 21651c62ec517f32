"""The induction circuit of one model: what carries the previous token, matches it, and copies.

Prompts end with a repeat of earlier tokens that end with A; the answer is B, which followed A.
Experiments, as in [Wang 2025], each by exact path patching (`paths`):

    Transformer   head to logits                            the patch of the key head costs most
                  head at B's position to the key head      by its key, its value, or all it reads
    Mamba         state to logits, y to logits              the state of the key layer costs most
                  convolution inputs into the write at B and B+1
                  state write by position
                  layer to the key layer

The released experiments corrupt several tokens at once.  Beside them stand experiments that corrupt
A alone or B alone, because they separate the roles: what is lost with A is the match, what is lost
with B is what is copied.

    previous-token carrier   brings A to B's position: what the key head's key, or the key layer's
                             write, loses with A
    matcher                  finds that position from the end: what is lost when its own input at
                             the end does not match
    copier                   writes B to the logits: what is lost with B at the last position
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from homolog.circuits.effects import Effects
from homolog.circuits.evaluation import CircuitEvaluation, Faithfulness, Scoring
from homolog.circuits.nulls import Null, null_of
from homolog.circuits.prompts import METRIC, Ability, Prompts, Unable, ability
from homolog.circuits.tracer import Role, Tracer
from homolog.models.base import LanguageModel
from homolog.record.circuits import REPLACE_B

N_RANDOM = 10  # random circuits that the named parts stand beside


@dataclass(frozen=True)
class Circuit:
    """The induction circuit of a model.

    key            the head or state whose patch costs most
    effects        of all experiments
    roles          the parts, by role, the strongest first
    faithfulness   of the named heads, or layers with a scan, among all of them; the others take
                   their values from prompts with another B
    null           that of as many drawn at random
    """

    model: str
    architecture: str
    ability: Ability
    key: str
    effects: tuple[Effects, ...]
    roles: tuple[Role, ...]
    faithfulness: Faithfulness
    null: Null


def trace_induction(
    model: LanguageModel, prompts: Prompts, advance: Callable[[int], None] | None = None
) -> Circuit:
    """Run every experiment on the model and name the parts of its circuit.

    advance   told after each batch of each experiment how many prompts are done
    Errors: Unable for a model that cannot do the task, with its accuracy; InputError for one whose
    architecture has no path patching.
    """
    tracer = Tracer(model, prompts, advance)
    able = ability(model, prompts)
    if not able.able:
        raise Unable(model.name, able)
    key, roles = tracer.trace()
    evaluation = CircuitEvaluation(
        model,
        prompts.pairs(model, REPLACE_B),
        [node for node in tracer.universe() if str(node) in tracer.named(roles)],
        Scoring(METRIC, "resample", prompts.batch, prompts.seed),
        universe=tracer.universe(),
    )
    with torch.no_grad():
        scores = evaluation.faithfulness(), null_of(evaluation, evaluation.circuit, N_RANDOM)
    traced = tuple(tracer.effects), tuple(roles)
    return Circuit(model.name, model.architecture, able, key, *traced, *scores)
