"""What this machine offers and what homolog would use of it."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

from homolog.record import process

OPTIONAL = {"datasets": "data", "ray": "ray", "openai": "llm", "scikit-learn": "controls"}


def findings() -> dict[str, str]:
    """Topic to finding, in the order to show them.  Imports torch and numba."""
    import torch

    from homolog.dictionaries.hardware import has_native_bfloat16
    from homolog.models.products import has_onednn

    machine, version = process.machine(), importlib.metadata.version("homolog")
    memory = f"{int(machine['memory_bytes']) / 2**30:.1f} GiB of memory"
    native = "computed natively" if has_native_bfloat16() else "slower than float32"
    topics = {
        "homolog": f"{version}, commit {process.git_commit() or 'none'}",
        "Python": f"{platform.python_version()} ({sys.executable})",
        "processor": f"{machine['cpu']}, {machine['n_cpus']} usable, {memory}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "bfloat16 on the processor": native,
        "numba": _numba(),
        "GPU": _gpu(),
        "selective scan": "numba on the processor"
        + (f", {_gpu_scan()} on the GPU" if torch.cuda.is_available() else ""),
        "matrix products": "oneDNN" if has_onednn() else "those of torch",
    }
    for package, extra in OPTIONAL.items():
        install = f"not installed: pip install 'homolog[{extra}]' if you need it"
        topics[package] = _version(package) or install
    return topics


def _gpu_scan() -> str:
    if _version("triton"):
        return "Triton on a GPU"
    return "torch operations on a GPU (slow; install triton)"


def _numba() -> str:
    import numba

    from homolog.compiled import jit

    def increment(x: int) -> int:
        return x + 1

    try:
        works = numba.njit(increment)(1) == 2  # compiled now, not read from the cache
    except Exception as error:  # whatever its compiler raises is the finding
        return f"{numba.__version__}, but it cannot compile: {error}"
    folder = jit()(increment).stats.cache_path
    kept = "keeps nothing of it: no folder can be written"
    if folder:
        kept = f"keeps what it compiled in {Path(folder).parent}"
    return f"{numba.__version__}, {'compiles' if works else 'computes wrong results'}; {kept}"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        mps = torch.backends.mps.is_available()
        return "Apple MPS (not used unless asked for)" if mps else "none, and none is needed"
    names = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        names.append(f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return "; ".join(names)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
