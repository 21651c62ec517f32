"""One call of the real sae-lens for all tests that compare with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.dictionaries.helpers import D_MODEL, D_SAE, random_state

from homolog.dictionaries import ReluConfig, SparseAutoencoder, save

ORACLE = Path(__file__).parents[1] / "reference" / "sae_lens_oracle.py"


def random_dictionary(kind: str) -> SparseAutoencoder:
    rng = np.random.default_rng(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    weights = draw(D_MODEL, D_SAE), draw(D_SAE), draw(D_SAE, D_MODEL), draw(D_MODEL)
    metadata = {"model": "zoo:transformer-s0", "layer": 2, "label": "sae"}
    return SparseAutoencoder(*weights, kind=kind, k=7 if kind == "topk" else None, metadata=metadata)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def sae_lens_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """x, the encodings of the saved `random_dictionary("relu")` (0) and ("topk") (1), and losses with
    gradients."""
    folder = tmp_path_factory.mktemp("sae-lens")
    for kind in ("relu", "topk"):
        save(random_dictionary(kind), folder / kind)
    state = random_state(ReluConfig(d_sae=D_SAE))
    x = torch.from_numpy(np.random.default_rng(2).standard_normal((200, D_MODEL)).astype(np.float32))
    given = {
        "W_enc": state.W_enc_T.T.copy(),
        "b_enc": state.b_enc,
        "W_dec": state.W_dec,
        "b_dec": state.b_dec,
    }
    save_file({"x": x, **{k: torch.from_numpy(v) for k, v in given.items()}}, folder / "in.safetensors")
    command = [sys.executable, "-W", "ignore", str(ORACLE), str(folder / "in.safetensors")]
    command += [str(folder / "out.safetensors"), str(folder / "relu"), str(folder / "topk")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"sae-lens, a development dependency, failed:\n{done.stderr[-3000:]}"
    return {"x": x, **load_file(folder / "out.safetensors")}
