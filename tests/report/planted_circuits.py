"""Circuit tables with known values: a Transformer and a Mamba whose parts are planted, and a model
that cannot.

    Transformer   carrier z.1.2 (-4 of 8), matcher z.K.1@A+1 (-4.8 of 8), copiers z.K.1 (-6 of 10), z.last.0 (-2 of 10)
    Mamba         carriers conv_taps.K@A (-3 of 6), y.1 (-0.9 of 6), matcher y.K (-5 of 10), copier state.K (-9 of 10)

Of every patch the probability changes by a twentieth of the logit difference, the logit by half of
it, and the KL divergence by minus a quarter; intervals are a tenth of the change to either side.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

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
    """The rows of one patch, one a metric."""
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


def role(
    name: str, component: str, change: float, cost: float, evidence: str = "as planted"
) -> dict[str, Any]:
    return {
        "role": name,
        "component": component,
        "evidence": evidence,
        "change": change,
        "change_lo": change - abs(change) / 10,
        "change_hi": change + abs(change) / 10,
        "share": -change / cost,
    }


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
            effects += patch(
                "head to the key head",
                "replace_A",
                f"z.{layer}.{head}",
                change,
                f"z.{key}.1 key",
                "B",
            )
    for name, corruption, at in (("key", "replace_A", "A"), ("value", "replace_B", "B")):
        for offset in range(-1, 4):
            change = {("key", 1): -4.8, ("value", 0): -5.5}.get((name, offset), 0.0)
            label = at if not offset else f"{at}{offset:+d}"
            effects += patch(
                f"{name} by position",
                corruption,
                f"{name}.{key}.1",
                change,
                "logits",
                label,
                offset,
            )
    roles = [
        role("previous-token carrier", "z.1.2", -4.0, 8),
        role("matcher", f"z.{key}.1@A+1", -4.8, 8),
        role("copier", f"z.{key}.1", -6.0, 10),
        role("copier", f"z.{last}.0", -2.0, 10),
    ]
    return {
        "effects": effects,
        "roles": roles,
        "offsets": offsets(f"z.{key}.1", {0: 6.0}, None),
        "edges": edges("embed", "mlp_in.0"),
    }


def mamba(n_layers: int) -> dict[str, Rows]:
    key = n_layers - 3
    effects: Rows = []
    for layer in range(n_layers):
        effects += patch(
            "state to logits", "replace_B", f"state.{layer}", -9.0 if layer == key else 0.0
        )
    for layer in range(n_layers):
        effects += patch("y to logits", "unrepeated", f"y.{layer}", -5.0 if layer == key else 0.0)
    for at, reads in (
        ("B", ("B", "A", "B-2", "B-3", "all")),
        ("B+1", ("B+1", "B", "A", "B-2", "all")),
    ):
        for corruption in (
            ("replace_A", "unrepeated_replace_AB") if at == "B" else ("unrepeated_replace_AB",)
        ):
            for read in reads:
                change = -3.0 if at == "B" and read in ("A", "all") else 0.0
                effects += patch(
                    f"convolution into the write at {at}",
                    corruption,
                    f"conv_in.{key}",
                    change,
                    f"write.{key}@{at}",
                    read,
                )
    for offset in range(-1, 4):
        label = "B" if not offset else f"B{offset:+d}"
        change = {0: -2.0, 1: -6.0}.get(offset, 0.0)
        effects += patch(
            "state write by position", "replace_B", f"write.{key}", change, "logits", label, offset
        )
    for layer in range(key):
        change = -0.9 if layer == 1 else 0.0
        effects += patch(
            "layer to the key layer",
            "replace_A",
            f"y.{layer}",
            change,
            f"state.{key}",
            "before last",
        )
    roles = [
        role("previous-token carrier", f"conv_taps.{key}@A", -3.0, 6),
        role("previous-token carrier", "y.1", -0.9, 6),
        role("matcher", f"y.{key}", -5.0, 10),
        role("copier", f"state.{key}", -9.0, 10),
    ]
    found = offsets(f"write.{key}", {0: 2.0, 1: 6.0}, {0: 0.25, 1: 0.75}) + offsets(
        "write.0", {0: 0.1}, {0: 1.0}
    )
    return {
        "effects": effects,
        "roles": roles,
        "offsets": found,
        "edges": edges("conv_in.0", "conv_taps.0", 3),
    }


def offsets(place: str, drops: dict[int, float], predicted: dict[int, float] | None) -> Rows:
    return [
        {
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
    found = []
    for corruption in ("replace_B", "replace_A"):
        for score, effect, chosen in (
            (-8.0, -9.0, "top"),
            (0.5, 0.2, "top"),
            (0.01, 0.02, "random"),
            (-0.02, 0.0, "random"),
            (-0.3, None, None),
        ):
            found.append(
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
            )
    return found


def circuit(model: str, architecture: str, n_layers: int, **more: Any) -> dict[str, Any]:
    correlations = {
        f"{c}_{s}_{e}": 0.5
        for c in ("replace_B", "replace_A")
        for s in ("pearson", "spearman")
        for e in ("top", "random", "all")
    }
    return {
        "model": model,
        "architecture": architecture,
        "n_layers": n_layers,
        "task": "induction",
        "preferred": 0.97,
        "accuracy": 0.81,
        "probability": 0.7,
        "logit_difference": 11.0,
        "able": True,
        "reason": "",
        "faithfulness": 0.9,
        "faithfulness_lo": 0.88,
        "faithfulness_hi": 0.92,
        "certainty": 1.0,
        "discovery_recall": 0.75,
        **correlations,
        **more,
    }


def unable(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "architecture": "gpt_neox",
        "n_layers": 2,
        "task": "induction",
        "preferred": 0.53,
        "accuracy": 0.0,
        "probability": 0.001,
        "logit_difference": 0.02,
        "able": False,
        "reason": f"{model} puts the answer above the wrong one in 53% of the prompts",
    }


def write_circuits(
    folder: Path,
    models: tuple[str, ...] = (TRANSFORMER, MAMBA),
    *,
    cannot: tuple[str, ...] = (),
    size: tuple[int, int, int] = (4, 4, 8),
) -> Path:
    """The five tables, and run.json where there is none.

    models: names; one with "mamba" in it is a Mamba; cannot: models that cannot do the task; size:
    layers and heads of Transformers, layers of Mambas.
    """
    n_layers, n_heads, n_mamba = size
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, Rows] = {
        name: [] for name in ("circuits", "effects", "roles", "offsets", "edges")
    }
    for model in models:
        is_mamba = "mamba" in model
        if is_mamba:
            row = circuit(
                model,
                "mamba",
                n_mamba,
                key=f"state.{n_mamba - 3}",
                verdict="off by one",
                offset=1,
                centre=0.75,
                centre_lo=0.7,
                centre_hi=0.8,
                predicted_offset=1,
            )
        else:
            row = circuit(
                model,
                "gpt_neox",
                n_layers,
                key=f"z.{n_layers - 2}.1",
                verdict="no shift",
                offset=0,
                centre=0.0,
                centre_lo=0.0,
                centre_hi=0.01,
                predicted_offset=None,
            )
        tables["circuits"].append(row)
        for name, rows in (mamba(n_mamba) if is_mamba else transformer(n_layers, n_heads)).items():
            tables[name] += [
                {"model": model, "architecture": row["architecture"], **item} for item in rows
            ]
    tables["circuits"] += [unable(model) for model in cannot]
    for name, rows in tables.items():
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / f"{name}.parquet")
    if not (folder / "run.json").exists():
        run = {
            "format": 1,
            "recipe_hash": "c0ffee" * 10,
            "facts": {"name": "ind", "pair": [*models, *cannot]},
            "recipe": {"name": "ind", "circuits": {"length": 16, "repeat": 4, "n_prompts": 64}},
            "stages": {
                "circuit one": {
                    "status": "done",
                    "seconds": 3.0,
                    "peak_bytes": 2**28,
                    "outputs": {},
                }
            },
        }
        (folder / "run.json").write_text(json.dumps(run), "utf-8")
    return folder
