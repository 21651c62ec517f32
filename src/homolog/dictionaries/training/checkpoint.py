"""Checkpoints of a training: one safetensors file with the whole state, written atomically.

Random choices are functions of seeds and of the position in the stream, so weights, Adam's moments,
the tokens since each feature fired, and the step are all there is.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from homolog.dictionaries.training.state import Trainee
from homolog.errors import InputError
from homolog.record.atomic import atomic_path

logger = logging.getLogger("homolog")


def write(path: Path, states: Sequence[Trainee], identity: dict[str, object], step: int) -> None:
    """Write the state after `step` steps; a file there stays whole until this one is complete."""
    arrays = {
        f"{i}.{name}": array for i, s in enumerate(states) for name, array in s.arrays().items()
    }
    header = {"identity": json.dumps(identity, sort_keys=True), "step": str(step)}
    header["sha256"] = _digest(header, sorted(arrays.items()))
    with atomic_path(path) as partial:
        save_file(arrays, partial, metadata=header)


def restore(path: Path, states: Sequence[Trainee], identity: dict[str, object]) -> int:
    """Load the state into `states`; returns the steps done, 0 when there is no file.

    A damaged file is named in the log and removed, and counts as none.  Raises InputError when it
    is of another run (names what differs).
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            # one at a time in memory
            tensors = ((name, file.get_tensor(name)) for name in sorted(file.keys()))
            if header["sha256"] != _digest(header, tensors):
                raise ValueError("its SHA-256 is not the recorded one")
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        message = "%s is damaged (%s): it is removed, and the training starts again"
        logger.warning(message, path, error)
        path.unlink(missing_ok=True)
        return 0
    stored, wanted = json.loads(header["identity"]), json.loads(json.dumps(identity))
    if differing := sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k)):
        requirement = f"it must be of this run, but {', '.join(differing)} differ"
        raise InputError("checkpoint", str(path), requirement, "Remove the file to start again.")
    with safe_open(path, framework="numpy") as file:
        for i, state in enumerate(states):
            for name, array in state.arrays().items():
                np.copyto(array, file.get_tensor(f"{i}.{name}"))
            state.refresh()
    return int(header["step"])


def _digest(header: Mapping[str, str], tensors: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 of identity and step, and of name, type, shape and values of each tensor."""
    digest = hashlib.sha256(json.dumps([header["identity"], header["step"]]).encode())
    for name, array in tensors:
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
