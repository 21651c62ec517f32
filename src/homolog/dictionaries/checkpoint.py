"""Checkpoints of a training: one safetensors file with the whole state, written atomically.

Random choices are functions of seeds and of the position in the stream, so weights, Adam's moments, the
tokens since each feature fired, and the step are all there is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from homolog.dictionaries.state import SaeState
from homolog.errors import InputError
from homolog.storage.atomic import atomic_path


def write(path: Path, states: Sequence[SaeState], identity: dict[str, object], step: int) -> None:
    """Write the state after `step` steps; a file already there stays whole until this one is complete."""
    arrays = {f"{i}.{name}": array for i, s in enumerate(states) for name, array in s.arrays().items()}
    header = {"identity": json.dumps(identity, sort_keys=True), "step": str(step)}
    with atomic_path(path) as partial:
        save_file(arrays, partial, metadata=header)


def restore(path: Path, states: Sequence[SaeState], identity: dict[str, object]) -> int:
    """Load the state into `states`; returns the steps done, 0 when there is no file.

    Raises InputError when the file is damaged or of another run (names what differs).
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            found = json.loads(header["identity"])
            wanted = json.loads(json.dumps(identity))
            differing = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            if differing:
                raise InputError(
                    "checkpoint", str(path), f"it must be of this run, but {', '.join(differing)} differ",
                    "Remove the file to start again.",
                )  # fmt: skip
            for i, state in enumerate(states):
                for name, array in state.arrays().items():
                    np.copyto(array, file.get_tensor(f"{i}.{name}"))
            return int(header["step"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(
            "checkpoint", str(path), f"it must be readable ({error})", "Remove the file to start again."
        ) from error
