"""The command line as a process: a message and an exit code for what stops it, patient output."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from homolog.errors import InputError
from homolog.record.atomic import as_input_error


class Commands(TyperGroup):
    """Turns what stops a command into one message and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _one_message():
            _check_words(args)  # all words of the command line: this is the outermost group
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _one_message():
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_message() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemError) as stop:
        if isinstance(stop, SystemError) and not isinstance(stop.__cause__, KeyboardInterrupt):
            raise  # compiled code reports an interrupt as a SystemError caused by it
        again = shlex.join(["homolog", *sys.argv[1:]])
        complain(
            "Stopped. What was complete is kept; to continue, give the same command again:\n  "
            f"{again}"
        )
        raise typer.Exit(130) from None
    except InputError as error:
        complain(f"homolog: {error}")
        raise typer.Exit(2) from None
    except OSError as error:
        mended = _unusable(error)
        if mended is None:
            raise
        complain(f"homolog: {mended}")
        raise typer.Exit(2) from None


def _check_words(words: list[str]) -> None:
    """InputError for an argument or an option's value that is empty, or not UTF-8.

    Paths and names are written into JSON files, and an empty path would mean the folder one is in.
    """
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        field = option if equals else before if before.startswith("-") else "argument"
        if not word or (equals and not value):
            raise InputError(field, "", "it must not be empty", "Give a value, or leave it out.")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(
                field, word, "it must be UTF-8: names are written into JSON files", "Rename it."
            ) from None


def _unusable(error: OSError) -> InputError | None:
    """The InputError for a path that cannot be used, and for output that cannot be written."""
    path = error.filename
    if isinstance(path, str | bytes) and error.errno in _UNUSABLE:
        return InputError(
            "path", os.fsdecode(path), f"it cannot be used ({error.strerror})", "Name another one."
        )
    return as_input_error(error, Path(os.fsdecode(path) if path else "standard output"))


_UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR)


class _Output(io.FileIO):
    """Standard output whose reader may leave (`| head`); what comes then goes nowhere."""

    gone = False

    def write(self, data: Any) -> int:
        if not self.gone:
            try:
                return super().write(data)
            except OSError as error:
                self.gone = True
                if not isinstance(error, BrokenPipeError):  # a full device: said once
                    raise
        return memoryview(data).nbytes


def make_output_patient() -> None:
    """Standard output that no closed pipe stops, with letters escaped that it cannot show."""
    out = sys.stdout
    if not isinstance(out, io.TextIOWrapper):  # closed, or another program's
        return
    raw = io.BufferedWriter(_Output(out.fileno(), "w", closefd=False))
    sys.stdout = io.TextIOWrapper(
        raw, out.encoding, "backslashreplace", line_buffering=out.line_buffering
    )


def stop_on_sigterm() -> None:
    """A stop by a job scheduler is as clean as Ctrl-C."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def complain(text: str) -> None:
    """Say it on standard error."""
    typer.echo(text, err=True)


def report_line(path: Path) -> str:
    """Where the report is."""
    return f"Report: {path}"


def say_report(path: Path, record: Mapping[str, Any]) -> None:
    """Where the report is, and what it is without.  Exit code 1 where something failed."""
    typer.echo(report_line(path))
    failed = record.get("failed", {})
    for work, why in failed.items():
        complain(f"Failed, and not in the report: {work} ({why['error']})")
    if failed:
        complain("The same command again makes what is missing; run.json has the details.")
        raise typer.Exit(1)
