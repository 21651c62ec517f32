"""What a plan says against what runs took: `python benchmarks/costs.py [RUN ...]`.

For every kind of stage the seconds and the peak memory that run.json recorded, beside those that
`homolog run RECIPE --plan` tells for the same recipe on this machine, and the files that were kept.
Runs are of this machine; other work on it, then or now, moves both sides.

    --reference     the products of the machine that the constants were measured on, not this one's
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homolog.pipeline.costs import GIB, Costs, Stage
from homolog.pipeline.pace import Pace, measured_pace
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder

OF_STAGE = {
    "norms": "residuals",
    "sinks": "residuals",
    "dictionaries": "dictionaries",
    "features": "features",
    "current-token": "matching",
    "match": "matching",
    "neurons": "neurons",
    "tables": "verdicts",
    "induction": "circuits",
    "task_circuits": "circuits",
    "report": "report",
}
TOGETHER = {"residuals": "dictionaries"}
"""Kinds of a plan that run.json records in one stage."""


def kind_of(stage: str) -> str:
    """The kind, in a plan, of a stage of run.json."""
    first, _, rest = stage.partition(" ")
    if first == "match" and rest.startswith("neurons"):
        return "neurons"
    if first == "features" and not rest:
        return "interpretation"
    return OF_STAGE.get(first, "interpretation")


def measured(record: dict[str, Any]) -> Iterator[Stage]:
    """The stages of a run that are done, as far as run.json tells."""
    for name, stage in record["stages"].items():
        if stage["status"] == "done":
            yield Stage(name, kind_of(name), stage["seconds"], stage["peak_bytes"])


def by_kind(stages: Iterator[Stage] | list[Stage]) -> dict[str, tuple[float, float]]:
    """(seconds, peak of memory) of each kind."""
    sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for stage in stages:
        kind = TOGETHER.get(stage.kind, stage.kind)
        seconds, memory = sums[kind]
        sums[kind] = (seconds + stage.seconds, max(memory, stage.memory))
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="runs/demo if none")
    parser.add_argument("--reference", action="store_true")
    options = parser.parse_args()
    given = options.runs or [path for path in [Path("runs/demo")] if path.is_dir()]
    if not given:
        print("Give the folder of a run, or make runs/demo by `homolog demo`.")
    for path in given:
        run = RunFolder(path)
        recipe = Recipe.parse(run.recipe)
        pace = Pace() if options.reference else measured_pace(recipe)
        stages = Costs(recipe, pace).stages
        took, told = by_kind(measured(run.record)), by_kind(stages)
        print(f"\n{path}: {recipe.name}, products of {pace.products / 1e9:.0f} GFLOP/s\n")
        print("| stage | measured | estimated | ratio | memory measured | estimated |")
        print("|---|---|---|---|---|---|")
        for kind in told:
            (seconds, memory), (expected, most) = took[kind], told[kind]
            ratio = f"{expected / seconds:.2f}" if seconds else ""
            sizes = f"{memory / GIB:.1f} GiB | {most / GIB:.1f} GiB"
            print(f"| {kind} | {seconds:.0f} s | {expected:.0f} s | {ratio} | {sizes} |")
        seconds, expected = (sum(s for s, _ in of.values()) for of in (took, told))
        print(f"| in all | {seconds:.0f} s | {expected:.0f} s | {expected / seconds:.2f} | | |")
        files = [file for file in path.rglob("*") if file.is_file()]
        kept = sum(file.stat().st_size for file in files)
        expected = sum(stage.kept for stage in stages)
        print(f"\nKept: {kept / GIB:.2f} GiB measured, {expected / GIB:.2f} GiB estimated.")


if __name__ == "__main__":
    main()
