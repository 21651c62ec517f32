"""Which parts of a model do a task: path patching, induction, Off-by-One, discovery."""

from homolog.circuits.discovery import Discovery, discover
from homolog.circuits.evaluation import CircuitEvaluation, Scoring
from homolog.circuits.induction import Circuit, trace_induction
from homolog.circuits.knockouts import knockouts_to_logits
from homolog.circuits.metrics import interval, measure
from homolog.circuits.nulls import Null
from homolog.circuits.off_by_one import OffByOne, off_by_one
from homolog.circuits.paths import Paths
from homolog.circuits.prompts import Prompts, Unable
from homolog.circuits.size_curve import SizeCurve
from homolog.circuits.task_circuit import TaskCircuit, find_circuit, transfers
from homolog.record.circuits import CircuitSearch

__all__ = [
    "Circuit",
    "CircuitEvaluation",
    "CircuitSearch",
    "Discovery",
    "Null",
    "OffByOne",
    "Paths",
    "Prompts",
    "Scoring",
    "SizeCurve",
    "TaskCircuit",
    "Unable",
    "discover",
    "find_circuit",
    "interval",
    "knockouts_to_logits",
    "measure",
    "off_by_one",
    "trace_induction",
    "transfers",
]
