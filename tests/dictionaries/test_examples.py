"""The examples of the page on dictionaries do what it says of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "methods-dictionaries.md"


def run_example(containing: str, names: dict[str, Any]) -> dict[str, Any]:
    """Execute the page's example that contains these words, among these names; returns its own."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if containing in block)
    exec(compile(block, str(PAGE), "exec", dont_inherit=True), names)
    return names


def test_components_of_two_models_are_matched(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    sources = rng.laplace(size=(4000, 16))
    x_a, x_b = (
        torch.from_numpy((sources @ rng.standard_normal((16, 24))).astype(np.float32))
        for _ in range(2)
    )
    run_example("ica(x, 16)", {"residuals_a": x_a, "residuals_b": x_b})
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    # independent components are the sources in both models, principal ones depend on the mixing
    assert float(lines["ica"]) > 0.95 > float(lines["pca"]) + 0.1
