"""What this process uses and runs on: peak memory, versions, machine, commit of the code."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

REPORTED_PACKAGES = (
    "homolog",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "numba",
    "polars",
    "pyarrow",
    "pydantic",
    "altair",
)

MEMORY_SHARE = 0.4
"""Of the machine's memory that tasks may plan with."""


def peak_memory_bytes() -> int:
    """Largest resident memory of this process, in bytes, since it started or since
    `reset_peak_memory`.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> bool:
    """Let the peak start again from the present use; False where the system cannot do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result may depend on, where installed."""
    known = {"python": platform.python_version(), "platform": platform.platform()}
    for package in REPORTED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known[package] = importlib.metadata.version(package)
    return known


def machine() -> dict[str, str | int]:
    """Processor, number of processors this process may use, and memory in bytes."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    n_cpus = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cpu": processor, "n_cpus": n_cpus, "memory_bytes": memory}


def git_commit() -> str | None:
    """Commit of the checkout this code runs from, "-dirty" if tracked files differ; None without
    one.
    """
    root = Path(__file__).resolve().parents[3]
    if not ((root / ".git").exists() and (root / "pyproject.toml").exists()):
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def memory_share(share: float = 1.0) -> int:
    """Bytes that a task may plan with, for a share of the machine's processors."""
    return int(MEMORY_SHARE * share * int(machine()["memory_bytes"]))
