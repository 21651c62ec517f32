"""What a run will cost, said before it starts: `homolog run RECIPE --plan`.

    stage                 time      memory       disk, while it runs      disk, kept

The numbers are those of `costs`: about right, which is within a factor of two where the machine is
free.  What does not fit into memory or on the disk is named, with what would help.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from homolog.pipeline.cells import cells_of
from homolog.pipeline.costs import GIB, HIGH, LOW, Costs, Stage
from homolog.pipeline.models import models_of
from homolog.pipeline.pace import Pace, measured_pace
from homolog.progress import Progress, SilentProgress
from homolog.record.process import machine
from homolog.record.recipe import Recipe

WORDS = {
    "residuals": "read the models",
    "dictionaries": "train and measure dictionaries",
    "features": "encode the matched text",
    "matching": "match features",
    "neurons": "match neurons",
    "verdicts": "controls, verdicts, tables",
    "interpretation": "what features mean and do",
    "circuits": "circuits",
    "report": "report",
}
LARGEST = 1e15  # what a plan is told where a number is not limited


def pace_heard(recipe: Recipe, progress: Progress, threads: int | None) -> Pace:
    """This machine's pace, where somebody listens to what is said of it; it takes seconds."""
    if not isinstance(progress, SilentProgress):
        with contextlib.suppress(Exception):  # a run does not end for want of an estimate
            return measured_pace(recipe, threads)
    return Pace()


def say_plan(recipe: Recipe, out: Path, progress: Progress, pace: Pace) -> None:
    """Say what a run will cost before it starts, unless nobody listens or it cannot be told."""
    if isinstance(progress, SilentProgress):
        return
    with contextlib.suppress(Exception):  # as above
        for line in Plan.of(recipe, pace, Room.at(out)).lines():
            progress.note(line)


@dataclass(frozen=True)
class Row:
    """One kind of stage, of all that are of it.  seconds: low, expected and high."""

    kind: str
    seconds: tuple[float, float, float]
    memory: float
    running: float
    kept: float


@dataclass(frozen=True)
class Room:
    """What the machine has: bytes of memory, and free bytes where the run will lie."""

    memory: float = LARGEST
    disk: float = LARGEST

    @classmethod
    def at(cls, out: Path) -> Room:
        """This machine's, for a run in the folder `out`."""
        there = next(
            folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir()
        )
        return cls(float(machine()["memory_bytes"]), float(shutil.disk_usage(there).free))


@dataclass(frozen=True)
class Plan:
    """The costs of a recipe, by kind of stage."""

    recipe: Recipe
    rows: list[Row]
    room: Room = Room()

    @classmethod
    def of(cls, recipe: Recipe, pace: Pace | None = None, room: Room | None = None) -> Plan:
        """pace: of this machine; by default it is measured now.  Of a grid: all its cells."""
        pace = pace or measured_pace(recipe)
        recipes = [cell.recipe for cell in cells_of(recipe)] if recipe.grid else [recipe]
        by_cell = [
            [Costs(cell, pace, times).stages for times in (LOW, 1.0, HIGH)] for cell in recipes
        ]
        kinds = dict.fromkeys(stage.kind for cell in by_cell for stage in cell[1])
        return cls(recipe, [_row(kind, by_cell) for kind in kinds], room or Room())

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Of all rows: low, expected and high."""
        low, expected, high = zip(*(row.seconds for row in self.rows), strict=True)
        return sum(low), sum(expected), sum(high)

    @property
    def memory(self) -> float:
        """Bytes at the peak of the largest stage."""
        return max(row.memory for row in self.rows)

    @property
    def kept(self) -> float:
        """Bytes on disk when the run has ended."""
        return sum(row.kept for row in self.rows)

    @property
    def running(self) -> float:
        """Bytes on disk at most, while it runs: what will be kept, and what lies beside it."""
        first = sum(row.running for row in self.rows if row.kind == "residuals")
        return self.kept + max(first, sum(row.running for row in self.rows) - first)

    def lines(self) -> Iterator[str]:
        """The plan as a table, and what does not fit."""
        models, device = len(models_of(self.recipe).all), self.recipe.run.device
        yield f"What {self.recipe.name} ({models} models, on {device}) will cost, about:"
        yield ""
        yield f"  {'':<32}{'time':>22}{'memory':>10}{'disk, running':>15}{'kept':>10}"
        for row in self.rows:
            yield _line(WORDS[row.kind], row.seconds, (row.memory, row.running, row.kept))
        total = (self.memory, self.running, self.kept)
        yield _line("in all", self.seconds, total)
        yield ""
        yield from self.warnings()

    def warnings(self) -> Iterator[str]:
        """What does not fit into memory or on the disk, with what would help."""
        recipe, room = self.recipe, self.room
        if self.memory > room.memory:
            largest = max(self.rows, key=lambda row: row.memory)
            helps = "fewer match_tokens or layers"
            if largest.kind in ("residuals", "features"):
                helps = "a smaller run.shard_mib"
            if largest.kind == "dictionaries":
                helps = "a smaller d_sae or fewer seeds"
            yield (
                f"Not enough memory: to {WORDS[largest.kind]} takes about {_bytes(self.memory)}, "
                f"and there are {_bytes(room.memory)}. What helps: {helps}."
            )
        if self.running > room.disk:
            largest = max(self.rows, key=lambda row: row.running + row.kept)
            helps = ["fewer layers"]
            if largest.kind == "residuals":
                helps += ["fewer corpus.train_tokens"]
                if recipe.sae.residuals == "float32":
                    helps += ['sae.residuals = "bfloat16"']
            else:
                helps += ["fewer corpus.match_tokens", "fewer sae.seeds or controls"]
            yield (
                f"Not enough disk: the run takes about {_bytes(self.running)}, most of it to "
                f"{WORDS[largest.kind]}, and {_bytes(room.disk)} are free. What helps: "
                f"{', '.join(helps[:-1])} or {helps[-1]}."
            )


def _row(kind: str, by_cell: Sequence[Sequence[list[Stage]]]) -> Row:
    """The stages of a kind in all cells, each as (low, expected, high)."""
    seconds = [
        sum(s.seconds for cell in by_cell for s in cell[place] if s.kind == kind)
        for place in range(3)
    ]
    cells = [[stage for stage in cell[1] if stage.kind == kind] for cell in by_cell]
    brief = max((s.running for own in cells for s in own if s.brief), default=0.0)
    running = max(sum(s.running for s in own if not s.brief) for own in cells)
    return Row(
        kind,
        (min(seconds), seconds[1], max(seconds)),
        max(s.memory for own in cells for s in own),
        running + brief,
        sum(s.kept for own in cells for s in own),
    )


def _line(words: str, seconds: tuple[float, float, float], sizes: tuple[float, ...]) -> str:
    low, expected, high = seconds
    about = _time(expected)
    if high > 1.3 * expected or low < expected / 1.3:
        about += f" ({_time(low)} to {_time(high)})"
    memory, running, kept = map(_bytes, sizes)
    return f"  {words:<32}{about:>22}{memory:>10}{running:>15}{kept:>10}"


def _time(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{0 if seconds >= 9.5 * size else 1}f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(size: float) -> str:
    if size >= GIB:
        return f"{size / GIB:.{0 if size >= 9.5 * GIB else 1}f} GiB"
    return f"{size / 2**20:.0f} MiB" if size >= 2**19 else ""
