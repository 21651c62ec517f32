"""Experiments on a Mamba: states to logits, and what enters the state of the key layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from homolog.circuits.effects import PathQuestion
from homolog.circuits.prompts import around, around_columns, label
from homolog.circuits.replay import Patched
from homolog.circuits.state_paths import StatePaths
from homolog.circuits.tracers.base import ALL, OFFSETS, SHARE, Role, Tracer
from homolog.corpus.tasks import PromptPairs
from homolog.models.mamba import Mamba
from homolog.models.sites import Site
from homolog.record import circuits as names

KEY_LAYERS = 3  # those whose states cost most, that are looked into
_SPREAD_OVER = 64  # prompts from which the spread of the convolution's input is taken


class MambaTracer(Tracer):
    """The key layer is the one whose state costs most of B."""

    architecture = Mamba
    paths = StatePaths

    def trace(self) -> tuple[str, list[Role]]:
        copied, matched = self.ask(
            _at_the_end(names.STATE_TO_LOGITS, names.REPLACE_B, lambda p, _: p.state_to_logits()),
            _at_the_end(names.Y_TO_LOGITS, names.UNREPEATED, lambda p, _: p.y_to_logits()),
        )
        evidence = "the state it carries to the last position; another B"
        copiers = self.roles(names.COPIER, copied, evidence)
        key_layers = [int(role.component.split(".")[1]) for role in copiers[:KEY_LAYERS]]
        first, *others = sorted(self._carriers(key_layers), key=lambda role: -role.share)
        evidence = "its output at the last position; nothing repeated"
        return copiers[0].component, [
            first,
            *(role for role in others if role.share >= SHARE and float(role.change.high) < 0),
            *self.roles(names.MATCHER, matched, evidence),
            *copiers,
        ]

    def _carriers(self, layers: Sequence[int]) -> list[Role]:
        """What brings A into the key layers' states: their convolutions' taps, and layers below."""
        questions = [one for layer in layers for one in self._questions(layer)]
        roles: list[Role] = []
        for effects in self.ask(*questions):
            question, receiver = effects.question, effects.question.receiver
            if question.corruption != names.REPLACE_A or question.experiment == names.STATE_WRITES:
                continue
            layer, _, position = receiver.split(".")[1].partition("@")
            if question.experiment == names.LAYER_TO_KEY_LAYER:
                evidence = f"its output before the end, as {receiver} carries it; another A"
                roles += self.roles(names.CARRIER, effects, evidence)
            else:
                evidence = f"one tap's input to the write of state.{layer} at {position}; another A"
                roles += self.roles(
                    names.CARRIER, effects, evidence, lambda at, of=layer: f"conv_taps.{of}@{at}"
                )[:1]
        return roles

    def _questions(self, layer: int) -> list[PathQuestion]:
        """What is asked of a key layer."""
        upstream = PathQuestion(
            names.LAYER_TO_KEY_LAYER,
            names.REPLACE_A,
            lambda p, _: p.layers_to_state(layer),
            f"state.{layer}",
            {"position": "before last"},
        )
        return [
            *(
                self._convolution(layer, shift, corruption)
                for corruption in (names.REPLACE_A, names.UNREPEATED_REPLACE_AB)
                for shift in (0, 1)
            ),
            _writes(layer, "B", names.REPLACE_B),
            _writes(layer, "A", names.REPLACE_A),
            *([upstream] if layer else []),
        ]

    def _convolution(self, layer: int, shift: int, corruption: str) -> PathQuestion:
        """Each tap's input alone, then all, into the write at B + shift.

        Senders are the positions that the taps read.
        """
        width, write_at = self.model.conv_width, label("B", shift)
        taps = {label("B", shift - back): [back] for back in range(width)}
        taps = {"A" if name == "B-1" else name: back for name, back in taps.items()}
        taps[ALL] = list(range(width))
        return PathQuestion(
            names.into_write(write_at),
            corruption,
            lambda p, part: p.conv_to_write(layer, part.positions["B"] + shift, taps),
            f"write.{layer}@{write_at}",
            {"sender": f"conv_in.{layer}", "position": list(taps)},
        )

    def universe(self) -> list[Site]:
        return [Site("y", layer) for layer in range(self.model.n_layers)]

    def named(self, roles: Sequence[Role]) -> set[str]:
        return {f"y.{role.component.split('@')[0].split('.')[1]}" for role in roles}

    def carriers(self, key: str) -> list[str]:
        return [f"write.{layer}" for layer in range(self.model.n_layers)]

    def carried(self, paths: Any, place: str, at: dict[str, Tensor]) -> Iterator[Patched]:
        return paths.writes_to_logits(int(place.split(".")[1]), at)

    def predicted(self, place: str, pairs: PromptPairs, offsets: Sequence[int]) -> Tensor:
        """Of the layer's convolution output: its taps are its memory of earlier positions."""
        layer = int(place.split(".")[1])
        site = Site("conv_in", layer)
        with torch.no_grad():
            tokens = pairs.clean[:_SPREAD_OVER]
            run = self.model.plain.run(tokens, capture=[site], stop_after=f"resid.{layer}")
            spread = run[site].double().flatten(0, 1).std(0)
            by_channel = self.model.mixer(layer).conv1d.weight[:, 0] * spread[:, None]
            energy = by_channel.square().sum(0).flip(0)
        share = (energy / energy.sum()).cpu()
        return torch.tensor(
            [float(share[o]) if 0 <= o < len(share) else 0.0 for o in offsets], dtype=torch.float64
        )


def _at_the_end(experiment: str, corruption: str, ask: Callable[..., Any]) -> PathQuestion:
    return PathQuestion(experiment, corruption, ask, about={"position": "last"})


def _writes(layer: int, name: str, corruption: str) -> PathQuestion:
    return PathQuestion(
        names.STATE_WRITES,
        corruption,
        lambda p, part: p.writes_to_logits(layer, around(part, name, OFFSETS)),
        about={"sender": f"write.{layer}"} | around_columns(name, OFFSETS),
    )
