"""The experiments of each architecture: one file each, and its line here."""

from homolog.circuits.tracers.base import Tracer
from homolog.circuits.tracers.mamba import MambaTracer
from homolog.circuits.tracers.transformer import TransformerTracer
from homolog.errors import InputError
from homolog.models.base import LanguageModel

TRACERS: tuple[type[Tracer], ...] = (TransformerTracer, MambaTracer)


def tracer_of(model: LanguageModel) -> type[Tracer]:
    """The experiments for the model's architecture; InputError where it has none."""
    for tracer in TRACERS:
        if isinstance(model, tracer.architecture):
            return tracer
    requirement = f"{model.architecture} has no path patching"
    raise InputError("model", model.name, requirement, "Take a GPT-2, GPT-NeoX, Llama or Mamba-1.")
