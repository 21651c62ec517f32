"""Which parts of a model do a task: exact path patching, the induction circuit, Off-by-One,
discovery.
"""

from homolog.circuits.attention_paths import AttentionPaths
from homolog.circuits.discovery import Discovery, discover
from homolog.circuits.evaluation import CircuitEvaluation
from homolog.circuits.induction import Circuit, Prompts, Unable, trace_induction
from homolog.circuits.metrics import interval, measure
from homolog.circuits.off_by_one import OffByOne, off_by_one
from homolog.circuits.state_paths import StatePaths

__all__ = [
    "AttentionPaths",
    "Circuit",
    "CircuitEvaluation",
    "Discovery",
    "OffByOne",
    "Prompts",
    "StatePaths",
    "Unable",
    "discover",
    "interval",
    "measure",
    "off_by_one",
    "trace_induction",
]
