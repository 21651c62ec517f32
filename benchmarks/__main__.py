"""`make bench`: every benchmark, one after the other, each in a process of its own.

    python -m benchmarks [--full]
    python -m benchmarks case-study [OUT]     the study of two real models (benchmarks/case_study)
    python -m benchmarks off-by-one [OUT]     tiny Mambas, trained, traced (benchmarks/off_by_one)
    python -m benchmarks SCRIPT [OPTIONS]     any other by its name, as `witnesses`

Long ones run at small sizes; `--full` runs every script as it is by itself, which takes most of an
hour.  Nothing is written into docs: that is for the scripts' own commands.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = {
    "alignment.py": ["--steps", "20000", "--features", "200"],
    "alignment_model.py": ["--tokens", "8192", "--train-tokens", "32768", "--epochs", "1"],
    "architectures.py": ["--types", "bart", "gemma3", "llama", "mamba2", "zamba"],
    "causal_seeds.py": ["--quick", "--seeds", "0", "1", "--pairs", "20"],
    "crosscoder.py": ["--rounds", "1", "--steps", "4"],
    "dictionary_pareto.py": ["--tokens", "100000", "--points", "2", "--heldout", "8192"],
    "examples.py": ["--quick"],
    "explorer.py": ["--features", "20000", "--repeats", "3"],
    "matching.py": ["--quick"],
    "planted_dictionaries.py": ["--quick"],
    "planted_truth.py": ["--seeds", "1"],
    "path_patching_recurrent.py": ["--prompts", "1", "--ask", "states"],
    "ray_speedup.py": ["--repeats", "1"],
    "recurrent_forward.py": ["--batch", "1", "--length", "128", "--repeats", "1"],
    "sae_training.py": ["--rounds", "1", "--steps", "4"],
    "scans.py": ["--repeats", "1", "--length", "256"],
    "spaces.py": ["--layers", "3", "4", "--tokens", "8192", "--width", "128"],
    "witnesses.py": ["--draws", "1"],
    "target_l0.py": ["--layers", "2", "--targets", "16", "--features", "256", "--tokens", "65536"],
}

STUDIES = ("case-study", "off-by-one")
WRITE = ("dictionary_pareto.py", "planted_dictionaries.py", "planted_truth.py")
"""Those that write files, which go into a folder that is removed."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="every script with its own sizes")
    parser.add_argument("what", nargs="*", metavar="STUDY [OUT]", help="this alone")
    named = Path(__file__).with_name(f"{' '.join(sys.argv[1:2]).replace('-', '_')}.py")
    if named.is_file():  # with options of its own
        raise SystemExit(subprocess.call([sys.executable, str(named), *sys.argv[2:]]))
    options = parser.parse_args()
    if options.what:
        study, *out = options.what
        if study not in STUDIES or len(out) > 1:
            parser.error(f"run by their names are {', '.join(STUDIES)} and the scripts here")
        importlib.import_module(f"benchmarks.{study.replace('-', '_')}.__main__").main(*out)
        return
    scripts = [
        path
        for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))
        if "def main(" in path.read_text()
    ]
    with tempfile.TemporaryDirectory() as folder:
        writes = {name: ["--out", folder] for name in WRITE}
        for script in scripts:
            given = writes.get(script.name, []) + (
                [] if options.full else SMALL.get(script.name, [])
            )
            print(f"== {script.name}", flush=True)
            subprocess.run([sys.executable, str(script), *given], check=True)


if __name__ == "__main__":
    main()
