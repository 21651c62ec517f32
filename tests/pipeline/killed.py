"""Run a study in forked children and kill them: python killed.py RECIPE FOLDER SEED.

This process imports everything and computes nothing, so each child starts at once and with thread
pools of its own. The first child runs undisturbed into FOLDER/whole and tells what it begins and
what it writes; FOLDER/stopped/STAGE is what a kill at the end of that stage would have left.  Then
moments are drawn all over the course: one in every stage, by the clock, and others in the middle of
writing a file.  The other children share FOLDER/killed: each goes on where the one before it was
killed, and the last one ends.  What happened is printed as JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.pipeline.outcome import leave_undrawn

WRITING = 8  # kills in the middle of a file, beside one in each stage
BEFORE = "before the first stage"


@dataclass
class Stage:
    """What a stage took undisturbed: seconds of processor time, and files written."""

    name: str
    seconds: float = 0.0
    files: int = 0


@dataclass(frozen=True)
class Moment:
    """When to kill: at a share of a stage's seconds, or, if `writing`, before one of its files gets
    its name.

    place: number of the stage in the course.  after: seconds, or files.
    """

    place: int
    after: float
    writing: bool


def main(recipe: str, folder: str, seed: str) -> None:
    """The undisturbed run, the killed ones and the one that ends; one JSON object on standard
    output.
    """
    from homolog.pipeline.recipes import load_recipe
    from homolog.pipeline.run_study import run_study
    from homolog.progress import SilentProgress

    leave_undrawn(setattr)
    importlib.import_module(
        "transformers.models.gpt_neox.modeling_gpt_neox"
    )  # else imported late, by every child

    def study(out: Path) -> None:
        run_study(load_recipe(recipe), out, SilentProgress(), threads=1)

    killed = Path(folder, "killed")
    course = Child(study, Path(folder, "whole"), stopped=Path(folder, "stopped")).course()
    names = [stage.name for stage in course]
    kills = [
        Child(study, killed, names, moment).killed() for moment in draw(course, random.Random(seed))
    ]
    Child(study, killed).course()
    print(json.dumps({"course": [asdict(stage) for stage in course], "kills": kills}))


def copy_run(run: Path, to: Path) -> None:
    """A copy of a run folder by hard links, without its lock."""
    shutil.copytree(run, to, copy_function=os.link, ignore=shutil.ignore_patterns(".lock"))


def draw(course: list[Stage], rng: random.Random) -> list[Moment]:
    """One moment in every stage, and `WRITING` more, in the order of the course."""
    moments = [
        Moment(place, 0.8 * rng.random() * stage.seconds, False)
        for place, stage in enumerate(course)
    ]
    files = [(place, number) for place, stage in enumerate(course) for number in range(stage.files)]
    place_of_tables = [stage.name for stage in course].index("tables")
    tables = [file for file in files if file[0] == place_of_tables]
    analyses = [file for file in files if place_of_tables < file[0] < len(course) - 1]
    drawn = [rng.choice(tables), *rng.choices(analyses, k=WRITING // 2)]
    drawn += rng.choices(files, k=WRITING - len(drawn))
    moments += [Moment(place, number, True) for place, number in drawn]
    return sorted(moments, key=lambda moment: (moment.place, moment.writing, moment.after))


class Child:
    """A forked process that runs the study and tells this one what it does.

    names: of the stages, in order; with a `moment` to be killed at.  stopped: where to keep the
    folder as it is at the end of each stage, by hard links: files of a run are replaced, never
    changed.
    """

    def __init__(
        self,
        study: Callable[[Path], None],
        out: Path,
        names: list[str] | None = None,
        moment: Moment | None = None,
        stopped: Path | None = None,
    ) -> None:
        self.out, self.names, self.moment, self.stopped = out, names or [], moment, stopped
        self.pipe, told = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(told)
            return
        code = 1
        try:
            log = os.open(out.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            self._tell(told)
            study(out)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def course(self) -> list[Stage]:
        """Let it run to its end; the stages that it went through."""
        course, before = [Stage(BEFORE)], 0.0
        for line in self._told(None):
            if line:
                now = self._seconds()
                course[-1].seconds, before = now - before, now
                course.append(Stage(line))
            else:
                course[-1].files += 1
        _, status, used = os.wait4(self.pid, 0)
        if status:
            raise RuntimeError(f"the study failed: {self.out.with_suffix('.log').read_text()}")
        course[-1].seconds = used.ru_utime + used.ru_stime - before
        return course

    def killed(self) -> dict[str, Any]:
        """Kill it at its moment, or see it kill itself while it writes; where that was and what it
        left.
        """
        assert self.moment is not None
        name, due = BEFORE, self._due(BEFORE, 0.0)
        for line in self._told(0.001):
            if line:
                name, due = line, self._due(line, self._seconds())
            if not self.moment.writing and self._seconds() >= due:
                os.kill(self.pid, signal.SIGKILL)
                due = float("inf")  # what it said last is still to be heard
        _, status, _ = os.wait4(self.pid, 0)
        os.close(self.pipe)
        if not os.WIFSIGNALED(status):
            raise RuntimeError(
                f"not killed: {self.moment}, {self.out.with_suffix('.log').read_text()}"
            )
        record = self.out / "run.json"
        stages = json.loads(record.read_text())["stages"] if record.exists() else {}
        return {
            "moment": asdict(self.moment),
            "stage": name,
            "signal": os.WTERMSIG(status),
            "running": [name for name, stage in stages.items() if stage["status"] == "running"],
            "half_written": [
                path.name for path in self.out.rglob(".partial-*") if str(self.pid) in path.name
            ],
        }

    def _due(self, name: str, now: float) -> float:
        """When to kill, on its clock or in files, after stage `name` began at `now`; at once if it
        is past it.
        """
        assert self.moment is not None
        place = self.names.index(name)
        if place == self.moment.place:
            return now + self.moment.after
        return now if place > self.moment.place else float("inf")

    def _tell(self, pipe: int) -> None:
        """In the child: a line with the name of each stage that begins, an empty one for each file
        written.
        """
        from homolog.record.run_folder import RunFolder

        real, files = RunFolder.stage, 0
        due = self._due(BEFORE, 0.0) if self.moment and self.moment.writing else float("inf")

        @contextlib.contextmanager
        def stage(run: RunFolder, name: str, outputs: Any) -> Iterator[dict[str, Any]]:
            nonlocal due, files
            by_clock = self.moment is not None and not self.moment.writing
            if not by_clock:  # its first file is the record that it runs
                os.write(pipe, f"{name}\n".encode())
            files = 0
            if self.moment and self.moment.writing:
                due = self._due(name, 0.0)
            with real(run, name, outputs) as facts:
                if by_clock:  # in a short stage the time would be over before it is on record
                    os.write(pipe, f"{name}\n".encode())
                yield facts
                if self.stopped:
                    copy_run(run.path, self.stopped / name)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal files
            if event == "os.rename" and ".partial-" in str(arguments[0]):
                if files >= due:
                    os.kill(os.getpid(), signal.SIGKILL)
                files += 1
                os.write(pipe, b"\n")

        setattr(RunFolder, "stage", stage)  # noqa: B010  of another signature
        sys.addaudithook(hook)

    def _told(self, patience: float | None) -> Iterator[str | None]:
        """Its lines until it ends, and None whenever it says nothing for `patience` seconds."""
        begun = b""
        while True:
            if not select.select([self.pipe], [], [], patience)[0]:
                yield None
            elif data := os.read(self.pipe, 1 << 16):
                *lines, begun = (begun + data).split(b"\n")
                yield from (line.decode() for line in lines)
            else:
                return

    def _seconds(self) -> float:
        """Processor time of all its threads."""
        return time.clock_gettime(
            ~self.pid << 3 | 2
        )  # how Linux numbers the processor clock of a process


if __name__ == "__main__":
    main(*sys.argv[1:])
