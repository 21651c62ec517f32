"""Does discovery by attribution find what path patching finds?

Of the parts that path patching names, those that discovery ranks among as many of its own: copiers
where B was replaced, carriers and matchers where A was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from homolog.circuits.discovery import Discovery
from homolog.record.circuits import CARRIER, COPIER, MATCHER, REPLACE_A, REPLACE_B

LOOKED_FOR = {REPLACE_B: (COPIER,), REPLACE_A: (CARRIER, MATCHER)}
"""Roles of the parts, by what was replaced."""


def found_again(components: Iterable[str], discovery: Discovery) -> tuple[int, int]:
    """How many parts these components are of, and how many of them discovery ranks first."""
    parts = {_node(component, discovery.ends) for component in components}
    return len(parts), len(parts & set(movers(discovery)[: len(parts)]))


def movers(discovery: Discovery) -> list[str]:
    """Heads, or mixers, in the order of what they move between positions.

    What stays at a position does not count: in a mixer, its state writes and the taps of its
    convolution that read earlier positions do.
    """
    heads = discovery.components().filter(pl.col("node").str.contains(r"^(head|attn)"))
    scores = dict(heads.select("node", "score").iter_rows())
    inner = discovery.edges.filter(pl.col("receiver").str.contains(r"^(state|\w+_taps)\."))
    moved = inner.filter(pl.col("tap").is_null() | (pl.col("tap") < pl.col("tap").max()))
    by_layer = moved.group_by("sender_layer").agg(pl.col("score").abs().sum())
    scores |= {f"mixer_out.{layer}": score for layer, score in by_layer.iter_rows()}
    return sorted(scores, key=lambda node: -scores[node])


def _node(component: str, known: Mapping[str, object]) -> str:
    """The node of discovery that a component belongs to: its head, or its layer's mixer."""
    kind, *place = component.split("@")[0].split(".")
    head, layer = f"head_out.{'.'.join(place)}", place[0]
    if kind == "z":
        return head if head in known else f"attn_out.{layer}"
    return f"mlp_out.{layer}" if kind.startswith("mlp") else f"mixer_out.{layer}"
