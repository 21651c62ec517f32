"""Experiments on a Transformer: heads to logits, and heads to the key head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from homolog.circuits.attention_paths import AttentionPaths
from homolog.circuits.effects import PathQuestion
from homolog.circuits.prompts import METRIC, around, around_columns
from homolog.circuits.replay import Patched
from homolog.circuits.tracers.base import OFFSETS, Role, Tracer
from homolog.models.sites import Site
from homolog.models.transformer import READS, Read, Transformer
from homolog.record import circuits as names


class TransformerTracer(Tracer):
    """The key head is the one whose patch costs most of B."""

    architecture = Transformer
    paths = AttentionPaths

    def trace(self) -> tuple[str, list[Role]]:
        _, copied = self.ask(_to_logits(names.UNRELATED), _to_logits(names.REPLACE_B))
        key = copied.strongest(METRIC)
        matched, _ = self.ask(
            _by_position(key, "key", "A", names.REPLACE_A),
            _by_position(key, "value", "B", names.REPLACE_B),
        )
        carriers: list[Role] = []
        if not key.startswith("z.0."):  # in block 0 there is nothing below to listen to
            heard, _ = self.ask(
                _to_key_head(key, f"{key} key", names.REPLACE_A, ("key",)),
                _to_key_head(key, key, names.UNRELATED, READS),
            )
            evidence = f"its output at B's position, as the key of {key} reads it; another A"
            carriers = self.roles(names.CARRIER, heard, evidence)
        evidence = "the key of one position, read from the end; another A"
        matchers = self.roles(names.MATCHER, matched, evidence, lambda at: f"{key}@{at}")
        copiers = self.roles(names.COPIER, copied, "its output at the last position; another B")
        return key, [*carriers, *matchers[:1], *copiers]

    def universe(self) -> list[Site]:
        return [
            Site("z", layer, head)
            for layer in range(self.model.n_layers)
            for head in range(self.model.n_heads)
        ]

    def named(self, roles: Sequence[Role]) -> set[str]:
        return {role.component.split("@")[0] for role in roles}

    def carriers(self, key: str) -> list[str]:
        return [key]

    def carried(self, paths: Any, place: str, at: dict[str, Tensor]) -> Iterator[Patched]:
        return paths.reads_to_logits(place, at, READS)


def _to_logits(corruption: str) -> PathQuestion:
    return PathQuestion(
        names.HEAD_TO_LOGITS,
        corruption,
        lambda paths, _: paths.heads_to_logits(),
        about={"position": "last"},
    )


def _to_key_head(key: str, receiver: str, corruption: str, reads: Sequence[Read]) -> PathQuestion:
    """Each head at B's position, as the key head reads it."""
    return PathQuestion(
        names.HEAD_TO_KEY_HEAD,
        corruption,
        lambda paths, part: paths.heads_to_head(key, part.positions["B"], reads),
        receiver,
        {"position": "B"},
    )


def _by_position(key: str, read: Read, name: str, corruption: str) -> PathQuestion:
    """The key head's key or value at each position around a named one."""
    return PathQuestion(
        names.by_position(read),
        corruption,
        lambda paths, part: paths.reads_to_logits(key, around(part, name, OFFSETS), (read,)),
        about={"sender": f"{read}.{key[2:]}"} | around_columns(name, OFFSETS),
    )
