"""Progress and the time left: a bar on a terminal, plain lines elsewhere, or nothing.

Library code takes a `Progress` and says `with progress.stage("train", total=1000) as bar:
bar.advance()`; what else there is to know of a running stage, such as its loss, goes with it:
`bar.advance(512, "loss 3.21")`.  A driver that knows its stages announces them with `plan`; the
whole then has

    left  = stage_left + scale * sum of the expected seconds of the stages to come
    scale = (seconds spent on planned stages + prior) / (seconds expected of what they did + prior)

where the prior, a tenth of the plan, keeps the first seconds from swinging it, and stage_left is
what is to do at the pace of the last seconds (`Speed`).  Stages do not nest.  rich draws the bar;
its own estimate knows one stage, and no plan.
"""

from __future__ import annotations

import io
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TextIO, TypeVar, runtime_checkable

BAR_WIDTH = 20  # characters

Part = TypeVar("Part")
_SHARE: ContextVar[Callable[[float], None]] = ContextVar("share", default=lambda share: None)


def share_done(share: float) -> None:
    """What share of the running task is done, 0 to 1.  Shown where tasks run in this process."""
    _SHARE.get()(share)


@contextmanager
def shares_to(listener: Callable[[float], None]) -> Iterator[None]:
    """Within it, the listener is told what `share_done` is."""
    token = _SHARE.set(listener)
    try:
        yield
    finally:
        _SHARE.reset(token)


def told(parts: Sequence[Part], begin: float, end: float) -> Iterator[Part]:
    """Parts of a task one by one, which take it from the share `begin` to the share `end`."""
    for done, part in enumerate(parts, 1):
        yield part
        share_done(begin + (end - begin) * done / len(parts))


@runtime_checkable
class Bar(Protocol):
    """One running stage."""

    def advance(self, n: float = 1, words: str = "") -> None:
        """Count `n` more units as done.  words: shown beside them until there are others."""
        ...

    def skip(self, n: float) -> None:
        """Count `n` units as done before the stage began: they say nothing about its pace."""
        ...


@runtime_checkable
class Progress(Protocol):
    """What library code may ask of a progress display."""

    def plan(self, expected_seconds: Mapping[str, float]) -> None:
        """Announce the stages to come, in order, with a guess of their seconds."""
        ...

    def stage(self, name: str, total: float | None = None) -> AbstractContextManager[Bar]:
        """Begin a stage of `total` units (None: unknown); it ends with the context."""
        ...

    def note(self, text: str) -> None:
        """Say one line that stays on the screen."""
        ...


class Speed:
    """Units a second over the last `SPAN` seconds, or since the last advance before them."""

    SPAN = 30.0
    KEPT = 60
    """Places in this span that are remembered."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0.0
        self._seen = deque([(clock(), 0.0)])

    def advance(self, n: float) -> None:
        """Count `n` units as done now."""
        self._count += n
        now = self._clock()
        if now - self._seen[-1][0] >= self.SPAN / self.KEPT:
            self._seen.append((now, self._count))
        while len(self._seen) > 1 and self._seen[1][0] <= now - self.SPAN:
            self._seen.popleft()

    @property
    def per_second(self) -> float:
        """Units a second; 0 before the first are done."""
        begun, before = self._seen[0]
        return (self._count - before) / max(self._clock() - begun, 1e-9)


class TimeLeft:
    """Seconds left, from the plan, the stages done and the share of the running one.  No output."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._plan: dict[str, float] = {}
        self._prior = 0.0
        self._spent = 0.0
        self._expected_done = 0.0
        self._name: str | None = None
        self._stage_started = self._started
        self._total: float | None = None
        self._count = 0.0
        self._speed = Speed(clock)

    def plan(self, expected_seconds: Mapping[str, float]) -> None:
        self._plan = {name: max(float(seconds), 1e-3) for name, seconds in expected_seconds.items()}
        self._prior = 0.1 * sum(self._plan.values())

    def begin(self, name: str, total: float | None) -> None:
        if name in self._plan:
            # stages planned before this one and never begun were already complete
            names = list(self._plan)
            self._plan = {later: self._plan[later] for later in names[names.index(name) :]}
        self._name, self._total, self._stage_started = name, total, self._clock()
        self._count, self._speed = 0.0, Speed(self._clock)

    def advance(self, n: float) -> None:
        self._count += n
        self._speed.advance(n)

    def skip(self, n: float) -> None:
        self._count += n

    def end(self) -> None:
        if self._name in self._plan:
            self._spent += self._clock() - self._stage_started
            self._expected_done += self._plan.pop(self._name)
        self._name = None

    @property
    def elapsed(self) -> float:
        """Seconds since the estimate was made."""
        return self._clock() - self._started

    @property
    def stage_elapsed(self) -> float:
        """Seconds since the running stage began."""
        return self._clock() - self._stage_started

    @property
    def share(self) -> float | None:
        """Part of the running stage that is done, 0 to 1; None where its total is unknown."""
        return min(self._count / self._total, 1.0) if self._total else None

    @property
    def left(self) -> float | None:
        """Seconds left of the plan, or else of the running stage; None if that is unknown."""
        scale = self._scale
        stage_left = self._stage_left(scale)
        if stage_left is None:
            return None
        to_come = (seconds for name, seconds in self._plan.items() if name != self._name)
        return stage_left + scale * sum(to_come)

    @property
    def _scale(self) -> float:
        if not self._prior:
            return 1.0
        spent, expected_done = self._spent, self._expected_done
        share, expected = self.share, self._plan.get(self._name or "")
        if expected is not None and share:
            spent, expected_done = spent + self.stage_elapsed, expected_done + share * expected
        return (spent + self._prior) / (expected_done + self._prior)

    def _stage_left(self, scale: float) -> float | None:
        if self._name is None:
            return 0.0
        if self._total and (rate := self._speed.per_second) > 0:
            return max(self._total - self._count, 0) / rate
        if self._name in self._plan:
            return max(scale * self._plan[self._name] - self.stage_elapsed, 0.0)
        return None

    def __str__(self) -> str:
        """In words: "about 2:05 left", or nothing where that is unknown."""
        left = self.left
        return f"about {duration(left)} left" if left else ""


class SilentProgress:
    """Shows nothing."""

    def plan(self, expected_seconds: Mapping[str, float]) -> None:
        """Ignored."""

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Bar]:
        """A stage without display."""
        yield self

    def advance(self, n: float = 1, words: str = "") -> None:
        """Ignored."""

    def skip(self, n: float) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""


class _Timed:
    """What every display that shows something begins with."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._left = TimeLeft(clock)

    def plan(self, expected_seconds: Mapping[str, float]) -> None:
        """See `Progress.plan`."""
        self._left.plan(expected_seconds)

    def skip(self, n: float) -> None:
        """See `Bar.skip`."""
        self._left.skip(n)


class LineProgress(_Timed):
    """Plain lines, for logs: when a stage begins, when it ends, and every `every` seconds."""

    def __init__(
        self,
        stream: TextIO | io.TextIOBase | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self._stream = stream or sys.stderr
        self._every = every
        self._clock = clock
        self._name = ""
        self._last = clock()

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Bar]:
        """See `Progress.stage`."""
        self._left.begin(name, total)
        self._name, self._last = name, self._clock()
        self.note(f"{name} ...")
        yield self
        took = duration(self._left.stage_elapsed)
        self._left.end()
        self._say(f"done in {took}")

    def advance(self, n: float = 1, words: str = "") -> None:
        """See `Bar.advance`."""
        self._left.advance(n)
        if self._clock() - self._last >= self._every:
            self._last = self._clock()
            share, took = self._left.share, duration(self._left.stage_elapsed)
            self._say(f"{took} so far" if share is None else f"{share:.0%}", words)

    def _say(self, done: str, words: str = "") -> None:
        """A line of the running stage."""
        times = ", ".join(filter(None, (done, str(self._left))))
        self.note(f"{self._name}: {'; '.join(filter(None, (times, words)))}")

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        print(f"[{duration(self._left.elapsed):>6}] {text}", file=self._stream, flush=True)


class RichProgress(_Timed):
    """A bar on a terminal: stage, percent, elapsed time, time left, and below it what is said."""

    def __init__(self) -> None:
        from rich.console import Console

        super().__init__(time.monotonic)
        self._console = Console(stderr=True)
        self._display: Any = None
        self._task: Any = None

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Bar]:
        """See `Progress.stage`."""
        from rich import progress as bars
        from rich.table import Column
        from rich.text import Text

        self._left.begin(name, total)
        shortened = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        columns = (
            bars.TextColumn("{task.description}", markup=False, table_column=shortened),
            bars.BarColumn(BAR_WIDTH),
            bars.TaskProgressColumn(),
            bars.TimeElapsedColumn(),
            bars.TextColumn("{task.fields[left]}", markup=False, table_column=Column(no_wrap=True)),
        )

        class Display(bars.Progress):
            words = ""

            def get_renderables(self) -> Iterable[Any]:
                yield from super().get_renderables()
                if self.words:
                    yield Text(f"  {self.words}", no_wrap=True, overflow="ellipsis")

        with Display(*columns, console=self._console, transient=True, expand=True) as self._display:
            self._task = self._display.add_task(name, total=total, left="")
            yield self
        took = duration(self._left.stage_elapsed)
        self._left.end()
        self.note(f"{name}: {took}")

    def advance(self, n: float = 1, words: str = "") -> None:
        """See `Bar.advance`."""
        self._left.advance(n)
        self._display.words = words or self._display.words
        self._display.update(self._task, advance=n, left=str(self._left))

    def skip(self, n: float) -> None:
        """See `Bar.skip`."""
        super().skip(n)
        self._display.update(self._task, advance=n)

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        self._console.print(text, markup=False, highlight=False)


def make_progress(quiet: bool = False) -> Progress:
    """A bar if standard error is a terminal, plain lines if not, nothing if `quiet`."""
    if quiet:
        return SilentProgress()
    return RichProgress() if sys.stderr.isatty() else LineProgress()


def duration(seconds: float) -> str:
    """Seconds as people say them: "0.4 s", "37 s", "2:05" (minutes), "1:02:09" (hours)."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
