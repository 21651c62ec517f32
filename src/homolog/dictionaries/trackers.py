"""Where the numbers of a training may go while it runs.

Weights & Biases, TensorBoard, or a function of the user's.

A tracker is a callable that takes a step and numbers by name.  `weights_and_biases` and
`tensorboard` open one for the duration of a context; their packages are imported then, and missing
ones are named with how to install them.  Neither changes a number of the training, and no key is
read or stored here: wandb finds its own (`wandb login`).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from homolog.errors import InputError


@runtime_checkable
class Tracker(Protocol):
    """Takes numbers as they come.

    step: counts tokens trained on and never falls within one training.
    """

    def __call__(self, step: int, numbers: Mapping[str, float]) -> None: ...


@contextlib.contextmanager
def weights_and_biases(
    project: str, folder: Path, *, name: str, run_id: str, settings: Mapping[str, Any]
) -> Iterator[Tracker]:
    """A run of Weights & Biases; wandb makes a folder of that name for its files in `folder`.

    run_id: the same id again continues that run.  settings: shown beside it.  WANDB_MODE=offline
    needs no account and no network.  Raises InputError when wandb is not installed, or not logged
    in.
    """
    wandb = _import("wandb", "wandb", project)
    folder.mkdir(parents=True, exist_ok=True)
    options = {"disable_git": True, "save_code": False, "console": "off", "silent": True}
    try:
        named = {"project": project, "dir": str(folder), "name": name, "id": run_id}
        own = {"config": dict(settings), "settings": wandb.Settings(**options)}
        run = wandb.init(**named, **own, resume="allow")
    except wandb.Error as error:
        requirement = f"Weights & Biases must take it ({str(error).splitlines()[0]})"
        remedy = "Run `wandb login`, or set WANDB_MODE=offline."
        raise InputError("--wandb", project, requirement, remedy) from error
    failed = True
    try:
        yield lambda step, numbers: run.log(dict(numbers), step=step)
        failed = False
    finally:
        run.finish(exit_code=int(failed))


@contextlib.contextmanager
def tensorboard(folder: Path) -> Iterator[Tracker]:
    """Event files in `folder`.

    A training that goes on there hides what was written after its checkpoint.  Raises InputError
    when the package tensorboard is not installed.
    """
    module = _import("torch.utils.tensorboard", "tensorboard", str(folder))
    writer: Any = None

    def track(step: int, numbers: Mapping[str, float]) -> None:
        nonlocal writer
        if writer is None:
            writer = module.SummaryWriter(str(folder), purge_step=step)
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    try:
        yield track
    finally:
        if writer is not None:
            writer.close()


@contextlib.contextmanager
def opened(trackers: Iterable[contextlib.AbstractContextManager[Tracker]]) -> Iterator[Tracker]:
    """One tracker that passes on to all; none are fine too."""
    with contextlib.ExitStack() as stack:
        inner = [stack.enter_context(tracker) for tracker in trackers]

        def track(step: int, numbers: Mapping[str, float]) -> None:
            for tracker in inner:
                tracker(step, numbers)

        yield track


def _import(module: str, package: str, value: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        requirement = f"the package {package} cannot be imported ({error})"
        remedy = f'Run: pip install "homolog[{package}]"'
        raise InputError(f"--{package}", value, requirement, remedy) from None
