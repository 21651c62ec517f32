"""The time left follows from the plan, what is done, and how long it took."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from homolog.progress import (
    LineProgress,
    Progress,
    RichProgress,
    SilentProgress,
    Speed,
    TimeLeft,
    duration,
    make_progress,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_plan_the_stage_is_extrapolated() -> None:
    clock = Clock()
    estimate = TimeLeft(clock)
    estimate.begin("train", total=10)
    assert estimate.left is None
    clock.now += 3
    estimate.advance(2)
    assert estimate.share == 0.2
    assert estimate.left == pytest.approx(3 / 0.2 * 0.8)


def test_stages_to_come_are_scaled_by_how_long_the_others_took() -> None:
    clock = Clock()
    estimate = TimeLeft(clock)
    estimate.plan({"a": 10, "b": 20})
    assert estimate.left == pytest.approx(30)
    estimate.begin("a", total=None)
    assert estimate.left == pytest.approx(30)
    clock.now += 30
    estimate.end()
    # a took 30 s instead of 10; the prior is a tenth of the plan: scale = (30 + 3) / (10 + 3)
    assert estimate.left == pytest.approx(20 * 33 / 13)
    estimate.begin("b", total=4)
    clock.now += 10
    estimate.advance(1)
    assert estimate.left == pytest.approx(30)  # b itself says so: a quarter took 10 s
    estimate.end()
    assert estimate.left == 0


def test_a_study_twice_as_slow_as_planned_is_told_from_its_first_tenth_on() -> None:
    """Stages of seconds say little: the first takes eight times its plan, and moves nothing."""
    clock = Clock()
    estimate = TimeLeft(clock)
    planned = {"norms": 2, "sinks": 60, "read": 300, "train": 200, "match": 400}
    took = {"norms": 16, "sinks": 100, "read": 600, "train": 300, "match": 700}
    estimate.plan(planned)
    to_come, ratios = sum(took.values()), []
    for name, seconds in took.items():
        estimate.begin(name, total=20)
        for _ in range(20):
            clock.now += seconds / 20
            to_come -= seconds / 20
            estimate.advance(1)
            if clock.now - 100 > 0.1 * sum(took.values()) and to_come > 1:
                assert estimate.left is not None
                ratios.append(estimate.left / to_come)
        estimate.end()
        if name == "norms":
            assert estimate.left == pytest.approx(sum(planned.values()), rel=0.15)
    assert len(ratios) > 50 and max(ratios) < 1.5 and min(ratios) > 1 / 1.5


def test_units_done_earlier_say_nothing_about_the_pace() -> None:
    clock = Clock()
    estimate = TimeLeft(clock)
    estimate.begin("train", total=100)
    estimate.skip(60)
    assert (estimate.share, estimate.left) == (0.6, None)
    clock.now += 5
    estimate.advance(10)
    assert estimate.left == pytest.approx(15)  # 30 more at 2 a second


def test_the_pace_is_that_of_the_last_seconds() -> None:
    """Two units a second for a minute, then four; and one every minute."""
    clock = Clock()
    speed = Speed(clock)
    assert speed.per_second == 0
    for per_second in (2, 4):
        for _ in range(60):
            clock.now += 1
            speed.advance(per_second)
        assert speed.per_second == pytest.approx(per_second)
    clock.now += 30  # nothing is done: half of it
    assert speed.per_second == pytest.approx(2)
    slow = Speed(clock)
    for _ in range(3):
        clock.now += 60
        slow.advance(1)
        assert slow.per_second == pytest.approx(1 / 60)
    clock.now += 20
    assert slow.per_second == pytest.approx(1 / 80)


def test_the_time_left_follows_a_machine_that_slows_down() -> None:
    clock = Clock()
    estimate = TimeLeft(clock)
    estimate.begin("train", total=1000)
    for seconds in (0.1, 1.0):
        for _ in range(100):
            clock.now += seconds
            estimate.advance(1)
    assert estimate.left == pytest.approx(800)  # at one a second, not 200 in 110 seconds


def test_stages_that_were_complete_already_are_not_waited_for() -> None:
    estimate = TimeLeft(Clock())
    estimate.plan({"a": 10, "b": 20, "c": 5})
    estimate.begin("b", total=None)
    assert estimate.left == pytest.approx(25)


def test_lines_for_a_log() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = LineProgress(stream, every=10, clock=clock)
    progress.plan({"train": 40, "match": 40})
    with progress.stage("train", total=4) as bar:
        for _ in range(4):
            clock.now += 10
            bar.advance()
    progress.note("a note")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[ 0.0 s] train ..."
    assert lines[1] == "[  10 s] train: 25%, about 1:10 left"
    assert lines[-2] == "[  40 s] train: done in 40 s, about 40 s left"
    assert lines[-1] == "[  40 s] a note"


def test_words_stand_beside_the_time_left() -> None:
    clock, stream = Clock(), io.StringIO()
    with LineProgress(stream, every=10, clock=clock).stage("train", total=4) as bar:
        clock.now += 10
        bar.advance(1, "loss 3.21")
        clock.now += 5
        bar.advance(1, "loss 3.10")  # no line yet
        clock.now += 5
        bar.advance(1)
    lines = stream.getvalue().splitlines()
    assert lines[1] == "[  10 s] train: 25%, about 30 s left; loss 3.21"
    assert lines[2].startswith("[  20 s] train: 75%, about ") and lines[2].endswith(" left")


def test_no_line_ends_in_a_colon() -> None:
    """A stage without a total says for how long it goes on, and what the plan says."""
    clock, stream = Clock(), io.StringIO()
    progress = LineProgress(stream, every=10, clock=clock)
    for planned in ({}, {"read": 30, "match": 60}):
        progress.plan(planned)
        with progress.stage("read") as bar:
            clock.now += 10
            bar.advance()
            clock.now += 10
            bar.advance(1, "2 of many")
    lines = [line[9:] for line in stream.getvalue().splitlines()]
    assert lines[:4] == [
        "read ...",
        "read: 10 s so far",
        "read: 20 s so far; 2 of many",
        "read: done in 20 s",
    ]
    assert lines[5] == "read: 10 s so far, about 1:20 left"


@pytest.mark.parametrize("width", [80, 60])
def test_a_long_name_leaves_room_on_a_terminal(width: int) -> None:
    progress, screen = RichProgress(), io.StringIO()
    progress._console = Console(width=width, file=io.StringIO(), force_terminal=True)
    progress.plan({"a name that is long, " * 5: 4000})
    with progress.stage("a name that is long, " * 5, total=4) as bar:
        bar.advance()
        Console(width=width, file=screen).print(*progress._display.get_renderables())
    (line,) = screen.getvalue().splitlines()
    assert line.startswith("a name") and "… ━" in line and " 25% " in line
    assert line.endswith(" left") and "about" in line


def test_words_on_a_terminal_stand_below_the_bar_until_there_are_others() -> None:
    progress = RichProgress()
    with progress.stage("train", total=4) as bar:
        assert len(list(progress._display.get_renderables())) == 1
        bar.advance(1, "loss 3.21")
        bar.advance(1)
        assert str(list(progress._display.get_renderables())[1]) == "  loss 3.21"
    with progress.stage("measure"):
        assert len(list(progress._display.get_renderables())) == 1


def test_an_error_goes_through_the_stage() -> None:
    for progress in (SilentProgress(), LineProgress(io.StringIO()), RichProgress()):
        assert isinstance(progress, Progress)
        with pytest.raises(KeyboardInterrupt), progress.stage("train", total=2) as bar:
            bar.advance()
            raise KeyboardInterrupt


def test_quiet_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    progress = make_progress(quiet=True)
    progress.plan({"train": 1})
    with progress.stage("train") as bar:
        bar.advance(2)
    progress.note("nothing")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (37.2, "37 s"), (59.7, "1:00"), (125, "2:05"), (3729, "1:02:09")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
