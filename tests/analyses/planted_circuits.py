"""Circuit tables with known values: of a Transformer and a Mamba, and of a model that cannot.

    Transformer   carrier z.1.2 (-4 of 8), matcher z.K.1@A+1 (-4.8 of 8), copiers z.K.1 (-6 of 10)
                  and z.last.0 (-2 of 10)
    Mamba         carriers conv_taps.K@A (-3 of 6) and y.1 (-0.9 of 6), matcher y.K (-5 of 10),
                  copier state.K (-9 of 10)

From the end the head reads B with 0.9 and another position with 0.01; the scan with 0.3 and 0.1.
Of every patch the probability changes by a twentieth of the logit difference, the logit by half of
it, and the KL divergence by minus a quarter; intervals are a tenth of the change to either side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from homolog.record.circuits import DISCOVERED
from homolog.record.run_record import FORMAT, write_record
from homolog.record.tables import (
    CIRCUITS,
    DISCOVERIES,
    EDGES,
    EFFECTS,
    HIDDEN_ATTENTION,
    OFFSETS,
    ROLES,
)

TABLES = (CIRCUITS, EFFECTS, ROLES, OFFSETS, DISCOVERIES, EDGES, HIDDEN_ATTENTION)
TRANSFORMER, MAMBA = "transformer-s0", "mamba-s0"
METRICS = {"logit_difference": 1.0, "probability": 0.05, "kl": -0.25, "logit": 0.5, "rank": -1.0}
Rows = list[dict[str, Any]]


def patch(
    experiment: str,
    corruption: str,
    sender: str,
    change: float,
    receiver: str = "logits",
    position: str = "last",
    offset: int | None = None,
) -> Rows:
    """The rows of one patch, one per metric."""
    return [
        {
            "experiment": experiment,
            "corruption": corruption,
            "sender": sender,
            "receiver": receiver,
            "metric": metric,
            "clean": 10.0,
            "patched": 10.0 + change * times,
            "change": change * times,
            "change_lo": change * times - abs(change * times) / 10,
            "change_hi": change * times + abs(change * times) / 10,
            "n_prompts": 64,
            "position": position,
            "offset": offset,
        }
        for metric, times in METRICS.items()
    ]


def role(name: str, component: str, change: float, cost: float) -> dict[str, Any]:
    """A part whose patch changes the logit difference so much, of what the corruption costs."""
    return {
        "role": name,
        "component": component,
        "evidence": "as planted",
        "change": change,
        "change_lo": change - abs(change) / 10,
        "change_hi": change + abs(change) / 10,
        "share": -change / cost,
    }


def read_from_the_end(part: str, at_b: float, elsewhere: float) -> Rows:
    """How a part reads B, and any other position, from the end."""
    return [
        {"part": part, "position": position, "n_prompts": 64}
        | {f"share{end}": share + by for end, by in (("", 0.0), ("_lo", -0.005), ("_hi", 0.005))}
        | {f"weight{end}": 2 * share for end in ("", "_lo", "_hi")}
        for position, share in (("B", at_b), ("another", elsewhere))
    ]


def transformer(n_layers: int, n_heads: int) -> dict[str, Rows]:
    key, last = n_layers - 2, n_layers - 1
    copied = {(key, 1): -6.0, (last, 0): -2.0}
    effects: Rows = []
    for corruption, times in (("unrelated", 0.5), ("replace_B", 1.0)):
        for layer in range(n_layers):
            for head in range(n_heads):
                change = times * copied.get((layer, head), 0.0)
                effects += patch("head to logits", corruption, f"z.{layer}.{head}", change)
    for layer in range(key):
        for head in range(n_heads):
            change = -4.0 if (layer, head) == (1, 2) else 0.0
            sender, receiver = f"z.{layer}.{head}", f"z.{key}.1 key"
            effects += patch("head to the key head", "replace_A", sender, change, receiver, "B")
    for name, corruption, at in (("key", "replace_A", "A"), ("value", "replace_B", "B")):
        for offset in range(-1, 4):
            change = {("key", 1): -4.8, ("value", 0): -5.5}.get((name, offset), 0.0)
            where = ("logits", at if not offset else f"{at}{offset:+d}", offset)
            experiment, sender = f"{name} by position", f"{name}.{key}.1"
            effects += patch(experiment, corruption, sender, change, *where)
    roles = [
        role("previous-token carrier", "z.1.2", -4.0, 8),
        role("matcher", f"z.{key}.1@A+1", -4.8, 8),
        role("copier", f"z.{key}.1", -6.0, 10),
        role("copier", f"z.{last}.0", -2.0, 10),
    ]
    return {
        "effects": effects,
        "roles": roles,
        "offsets": offsets(f"z.{key}.1", {0: 6.0}, None)
        + offsets(f"z.{key}.1", {1: 5.0}, None, "A"),
        "discoveries": discoveries(),
        "edges": edges("embed", "mlp_in.0"),
        "hidden_attention": read_from_the_end(f"z.{key}.1", 0.9, 0.01),
    }


def mamba(n_layers: int) -> dict[str, Rows]:
    key = n_layers - 3
    effects: Rows = []
    for experiment, corruption, sender, most in (
        ("state to logits", "replace_B", "state", -9.0),
        ("y to logits", "unrepeated", "y", -5.0),
    ):
        for layer in range(n_layers):
            change = most if layer == key else 0.0
            effects += patch(experiment, corruption, f"{sender}.{layer}", change)
    for at, corruption, reads in (
        ("B", "replace_A", ("B", "A", "B-2", "B-3", "all")),
        ("B", "unrepeated_replace_AB", ("B", "A", "B-2", "B-3", "all")),
        ("B+1", "unrepeated_replace_AB", ("B+1", "B", "A", "B-2", "all")),
    ):
        experiment, receiver = f"convolution into the write at {at}", f"write.{key}@{at}"
        for read in reads:
            change = -3.0 if at == "B" and read in ("A", "all") else 0.0
            effects += patch(experiment, corruption, f"conv_in.{key}", change, receiver, read)
    for offset in range(-1, 4):
        where = ("logits", "B" if not offset else f"B{offset:+d}", offset)
        change = {0: -2.0, 1: -6.0}.get(offset, 0.0)
        effects += patch("state write by position", "replace_B", f"write.{key}", change, *where)
    for layer in range(key):
        change, where = (-0.9 if layer == 1 else 0.0), (f"state.{key}", "before last")
        effects += patch("layer to the key layer", "replace_A", f"y.{layer}", change, *where)
    roles = [
        role("previous-token carrier", f"conv_taps.{key}@A", -3.0, 6),
        role("previous-token carrier", "y.1", -0.9, 6),
        role("matcher", f"y.{key}", -5.0, 10),
        role("copier", f"state.{key}", -9.0, 10),
    ]
    here = offsets(f"write.{key}", {0: 2.0, 1: 6.0}, {0: 0.25, 1: 0.75})
    return {
        "effects": effects,
        "roles": roles,
        "offsets": here
        + offsets("write.0", {0: 0.1}, {0: 1.0})
        + offsets(f"write.{key}", {1: 1.0, 2: 3.0}, {2: 1.0}, "A"),
        "discoveries": discoveries(),
        "edges": edges("conv_in.0", "conv_taps.0", 3),
        "hidden_attention": read_from_the_end(f"y.{key}", 0.3, 0.1),
    }


def offsets(
    place: str, drops: dict[int, float], predicted: dict[int, float] | None, token: str = "B"
) -> Rows:
    return [
        {
            "token": token,
            "place": place,
            "offset": o,
            "effect": drops.get(o, 0.0),
            "effect_lo": drops.get(o, 0.0) - 0.4,
            "effect_hi": drops.get(o, 0.0) + 0.4,
            "share": 0.0,
            "null": 0.0,
            "null_lo": -0.2,
            "null_hi": 0.2,
            "predicted_share": float("nan") if predicted is None else predicted.get(o, 0.0),
        }
        for o in range(-1, 5)
    ]


def edges(sender: str, receiver: str, tap: int | None = None) -> Rows:
    """Two edges of each kind, and one that was not patched for real."""
    planted = (
        (-8.0, -9.0, "top"),
        (0.5, 0.2, "top"),
        (0.01, 0.02, "random"),
        (-0.02, 0.0, "random"),
        (-0.3, None, None),
    )
    return [
        {
            "corruption": corruption,
            "sender": sender,
            "receiver": receiver,
            "sender_layer": None,
            "receiver_layer": 0,
            "tap": tap,
            "position": "B",
            "score": score,
            "effect": effect,
            "effect_low": None if effect is None else effect - 0.1,
            "effect_high": None if effect is None else effect + 0.1,
            "chosen_as": chosen,
        }
        for corruption in DISCOVERED
        for score, effect, chosen in planted
    ]


def discoveries() -> Rows:
    """Two of two copiers found again, and one of two other parts."""
    correlations = [name for name in DISCOVERIES.columns if name.startswith(("pear", "spear"))]
    counted = {"n_prompts": 8, "n_edges": 5, "n_named": 2}
    return [
        {"corruption": corruption, "n_found": n, **counted, **dict.fromkeys(correlations, 0.5)}
        for corruption, n in zip(DISCOVERED, (2, 1), strict=True)
    ]


def circuit(model: str, n_layers: int, key: str, **offset: Any) -> dict[str, Any]:
    """The row of a model that does the task."""
    return {
        **_about(model, n_layers),
        "preferred": 0.97,
        "accuracy": 0.81,
        "probability": 0.7,
        "logit_difference": 11.0,
        "able": True,
        "reason": "",
        "key": key,
        "faithfulness": 0.9,
        "faithfulness_lo": 0.88,
        "faithfulness_hi": 0.92,
        "certainty": 1.0,
        **offset,
    }


def unable(model: str) -> dict[str, Any]:
    """The row of a model that does not."""
    return {
        **_about(model, 2),
        "preferred": 0.53,
        "accuracy": 0.0,
        "probability": 0.001,
        "logit_difference": 0.02,
        "able": False,
        "reason": f"{model} puts the answer above the wrong one in 53% of the prompts",
    }


def _about(model: str, n_layers: int) -> dict[str, Any]:
    architecture = "mamba" if "mamba" in model else "gpt_neox"
    own = {"model": model, "architecture": architecture, "n_layers": n_layers, "task": "induction"}
    return own | {"n_prompts": 64, "length": 16, "repeat": 4}


OFF_BY_ONE = {
    "verdict": "off by one",
    "offset": 1,
    "centre": 0.75,
    "centre_lo": 0.7,
    "centre_hi": 0.8,
    "predicted_offset": 1,
    "matched_verdict": "off by one",
    "matched_offset": 2,
    "matched_certainty": 1.0,
    "matched_centre": 1.75,
    "matched_centre_lo": 1.7,
    "matched_centre_hi": 1.8,
    "matched_predicted_offset": 2,
}
NO_SHIFT = {
    "verdict": "no shift",
    "offset": 0,
    "centre": 0.0,
    "centre_lo": 0.0,
    "centre_hi": 0.01,
    "predicted_offset": None,
    "matched_verdict": "no shift",
    "matched_offset": 1,
    "matched_certainty": 1.0,
    "matched_centre": 1.0,
    "matched_centre_lo": 1.0,
    "matched_centre_hi": 1.01,
    "matched_predicted_offset": None,
}


def write_circuits(
    folder: Path,
    models: tuple[str, ...] = (TRANSFORMER, MAMBA),
    *,
    cannot: tuple[str, ...] = (),
    size: tuple[int, int, int] = (4, 4, 8),
) -> Path:
    """The seven tables, and run.json where there is none.

    models: names; one with "mamba" in it is a Mamba.  cannot: models that cannot do the task.
    size: layers and heads of Transformers, layers of Mambas.
    """
    n_layers, n_heads, n_mamba = size
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Rows] = {table.name: [] for table in TABLES}
    for model in models:
        if "mamba" in model:
            row = circuit(model, n_mamba, f"state.{n_mamba - 3}", **OFF_BY_ONE)
            planted = mamba(n_mamba)
        else:
            row = circuit(model, n_layers, f"z.{n_layers - 2}.1", **NO_SHIFT)
            planted = transformer(n_layers, n_heads)
        rows["circuits"].append(row)
        own = {name: row[name] for name in ("model", "architecture")}
        for name, of_model in planted.items():
            rows[name] += [own | item for item in of_model]
    rows["circuits"] += [unable(model) for model in cannot]
    for table in TABLES:
        table.write(table.frame(rows[table.name]), folder / table.file)
    if not (folder / "run.json").exists():
        stage = {"status": "done", "seconds": 3.0, "peak_bytes": 2**28, "outputs": {}}
        circuits = {"length": 16, "repeat": 4, "n_prompts": 64}
        run = {
            "format": FORMAT,
            "recipe_hash": "c0ffee" * 10,
            "facts": {"name": "ind", "pair": [*models, *cannot]},
            "recipe": {"name": "ind", "circuits": circuits},
            "stages": {"circuit one": stage},
        }
        write_record(folder / "run.json", run)
    return folder
