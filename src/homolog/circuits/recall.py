"""Does discovery by attribution find what path patching finds?

    recall = parts of the traced circuit that discovery ranks among as many of its own / those parts

Copiers are looked for where B was replaced, carriers and matchers where A was.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from homolog.circuits.discovery import Discovery
from homolog.circuits.induction import Circuit
from homolog.record.circuits import CARRIER, COPIER, MATCHER, REPLACE_A, REPLACE_B


def recall(circuit: Circuit, discoveries: Mapping[str, Discovery]) -> float:
    """Share of the circuit's parts that discovery ranks first; discoveries by corruption."""
    hits = wanted = 0
    for corruption, roles in ((REPLACE_B, (COPIER,)), (REPLACE_A, (CARRIER, MATCHER))):
        parts = {_node(r.component) for r in circuit.roles if r.role in roles}
        hits += len(parts & set(movers(discoveries[corruption])[: len(parts)]))
        wanted += len(parts)
    return hits / wanted


def movers(discovery: Discovery) -> list[str]:
    """Heads, or mixers, in the order of what they move between positions.

    What stays at a position does not count: in a mixer, its state writes and the taps of its
    convolution that read earlier positions do.
    """
    inner = discovery.edges.filter(pl.col("receiver").str.contains(r"^(state|conv_taps)"))
    if inner.is_empty():
        heads = discovery.components().filter(pl.col("node").str.starts_with("head"))
        return heads.get_column("node").to_list()
    moved = inner.filter(pl.col("tap").is_null() | (pl.col("tap") < pl.col("tap").max()))
    by_layer = moved.group_by("sender_layer").agg(pl.col("score").abs().sum())
    layers = by_layer.sort("score", descending=True).get_column("sender_layer")
    return [f"mixer_out.{layer}" for layer in layers]


def _node(component: str) -> str:
    """The node of discovery that a component belongs to: its head, or its layer's mixer."""
    kind, *place = component.split("@")[0].split(".")
    return f"head_out.{'.'.join(place)}" if kind == "z" else f"mixer_out.{place[0]}"
