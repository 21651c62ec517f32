"""Dictionaries of all layers in training on one stream, wherever their weights lie."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from homolog.dictionaries.finite import refuse_not_finite
from homolog.dictionaries.hardware import Threads
from homolog.dictionaries.sources import ActivationSource
from homolog.dictionaries.training.fold import Normalisation
from homolog.dictionaries.training.step import ALONE, advance

_LARGE = 1 << 22  # weights of an encoder from which all threads work on one dictionary


class Run(contextlib.ExitStack):
    """What a training works on; a subclass says how, and opens what it needs when entered.

    states: a list for each layer of the source.  normal: one for each layer.  workers: threads of
    the CPU, all cores by default.
    """

    def __init__(
        self,
        source: ActivationSource,
        states: Sequence[list[Any]],
        normal: list[Normalisation],
        workers: int | None,
    ) -> None:
        super().__init__()
        self.source, self.states, self.normal, self.workers = source, states, normal, workers
        self.flat_states = [state for row in states for state in row]
        self.training = self.flat_states[0].training

    def advance(self, step: int, n_steps: int) -> None:
        """Take n_steps steps from `step` on with all dictionaries."""
        raise NotImplementedError

    def inputs(self, raw: torch.Tensor, layer: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The chunk of a layer that begins at a step as dictionaries and their products see it."""
        state = self.states[layer][0]
        x = self.normal[layer].apply(raw).contiguous()
        refuse_not_finite(x, state.activations, step * self.training.batch)
        return x, x.bfloat16() if state.half else x


class OnCpu(Run):
    """Trains on the CPU, spread over threads."""

    def __enter__(self) -> OnCpu:
        self.threads = self.enter_context(Threads(self.workers))
        n_weights = self.source.d_model * self.flat_states[0].d_sae
        few = self.source.n_layers < self.threads.workers
        self.one_by_one = few or n_weights >= _LARGE
        return self

    def advance(self, step: int, n_steps: int) -> None:
        size = self.training.batch
        chunk = self.source.read(step * size, n_steps * size)
        layers = range(self.source.n_layers)

        def work(layer: int, threads: Threads = ALONE) -> None:
            x, seen = self.inputs(chunk[layer], layer, step)
            for state in self.states[layer]:
                advance(state, x, seen, step, threads)

        if self.one_by_one:
            for layer in layers:
                work(layer, self.threads)
        else:
            self.threads.run(work, layers)
