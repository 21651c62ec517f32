"""run.json of a planted run, and the models of all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from homolog.record.run_folder import FORMAT, recipe_hash

A, B, C = "transformer-s0", "mamba-s0", "rwkv-s0"
N_LAYERS = {A: 4, B: 8, C: 3}
FDR, MARGIN = 0.01, 0.1225
LEAST_R = MARGIN**0.5
STAGES = {
    "corpus": (2.1, 410),
    "residuals": (31.4, 1480),
    "dictionaries": (188.6, 1910),
    "features": (20.3, 1620),
    "matching": (42.7, 1350),
    "controls": (55.0, 1400),
}
"""Seconds and MiB."""
MODELS = (
    (A, "compared", "gpt_neox", 4, 1_059_000, 3.412),
    (B, "compared", "mamba", 8, 1_104_000, 3.378),
    ("transformer-s1", "model-seed", "gpt_neox", 4, 1_059_000, 3.420),
    ("mamba-s1", "model-seed", "mamba", 8, 1_104_000, 3.371),
    ("transformer-random", "random", "gpt_neox", 4, 1_059_000, None),
    ("mamba-random", "random", "mamba", 8, 1_104_000, None),
    (C, "compared", "rwkv", 3, 1_203_000, 3.391),
    ("rwkv-s1", "model-seed", "rwkv", 3, 1_203_000, 3.391),
    ("rwkv-random", "random", "rwkv", 3, 1_203_000, None),
)
"""Name, role, architecture, blocks, parameters, loss."""


def family(model: str) -> str:
    return model.split("-")[0]


def run_json(name: str, compared: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": name,
        "compared": list(compared),
        "recipe_hash": "c0ffee" * 10,
        "git_commit": "acb4b65",
        "device": "cpu",
        "recipe": {
            "name": name,
            "seed": 0,
            "context": 128,
            "sae": {"kind": "relu", "l1": 0.3, "d_sae": 768, "limit": None},
            "models": [
                {
                    "ref": f"zoo:{m}",
                    "untrained": f"zoo:{family(m)}-random",
                    "other_seed": f"zoo:{family(m)}-s1",
                }
                for m in compared
            ],
            "matching": {"fdr": FDR, "margin": MARGIN, "rival_ratio": 0.7},
        },
        "versions": {"homolog": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
        "machine": {"cpu": "two cores", "n_cpus": 2, "memory_bytes": 4 * 2**30},
        "corpus": {
            "hash": "ab12" * 16,
            "tokenizer": "tok-1024",
            "n_documents": 812,
            "n_windows": 2800,
            "context": 128,
            "n_tokens": 358_400,
            "sources": ["zoo/text.jsonl"],
        },
        "models": [
            {
                "name": m,
                "role": role,
                "architecture": arch,
                "n_layers": n,
                "d_model": 128,
                "n_parameters": size,
                "heldout_loss": loss,
            }
            for m, role, arch, n, size, loss in MODELS
            if family(m) in map(family, compared)
        ],
        "stages": {
            stage: {"status": "done", "seconds": s, "peak_memory_bytes": mib * 2**20, "outputs": {}}
            for stage, (s, mib) in STAGES.items()
        },
        "warnings": ["3 of 812 documents were shorter than 8 tokens and were left out"],
    }


def write_record(folder: Path, run: dict[str, Any]) -> None:
    """Write run.json with its digest, as a run does."""
    values = run | {"format": FORMAT}
    values.pop("sha256", None)
    text = json.dumps(values | {"sha256": recipe_hash(values)})
    (folder / "run.json").write_text(text, "utf-8")
