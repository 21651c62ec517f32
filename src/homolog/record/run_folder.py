"""The run folder: which stages of a run are done, and whether the files are unchanged.

A stage is done when run.json says so and every file it wrote still has the SHA-256 recorded then.
A file that is missing or altered is named, logged and makes its stage run again; it is never used.
run.json holds its own SHA-256, and where that is wrong every stage runs again.

What a run reads (text, weights, tokenizers, dictionaries) is recorded when it begins, and it goes
on with that alone.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from homolog.errors import InputError
from homolog.record import process
from homolog.record.atomic import (
    PARTIAL_PREFIX,
    remove_partial_files,
    sha256_file,
    user_errors,
)
from homolog.record.inputs import Input
from homolog.record.lock import hold, let_go
from homolog.record.places import Places
from homolog.record.run_record import (
    FORMAT,
    judged_anew,
    read_record,
    recipe_hash,
    write_record,
)

RESERVED = {
    "format",
    "sha256",
    "recipe",
    "recipe_hash",
    "judged",
    "stages",
    "rebuilt",
    "inputs",
    "versions",
    "git_commit",
    "machine",
}
logger = logging.getLogger("homolog")


class RunFolder(Places):
    """One run on disk: `RunFolder(path)` reads a run, `RunFolder.open` starts or continues one."""

    def __init__(self, path: Path | str) -> None:
        """Raises `InputError` if `path` holds no run or its run.json cannot be read."""
        super().__init__(path)
        if not self.run_json.is_file():
            raise InputError(
                "run folder",
                str(path),
                "it must be the folder of a run, with a run.json in it",
                "Give the --out of an earlier `homolog demo` or `homolog run`.",
            )
        record = read_record(self.run_json)
        if record is None:
            raise InputError(
                "run folder",
                str(path),
                "its run.json is damaged, or of another version",
                "Start the run again with the same recipe and --out: it is rebuilt.",
            )
        self._record: dict[str, Any] = record

    @classmethod
    def open(cls, path: Path | str, recipe: Mapping[str, Any]) -> RunFolder:
        """Start a run of `recipe` (JSON values) in `path`, or continue it there.

        A recipe that only judges otherwise (`run_record.judges`) takes the place of the run's own.
        Raises `InputError` if `path` holds the run of another recipe, other files, or a run that
        another process is writing, and if it cannot be written.  After an error nothing new is left
        behind.
        """
        path = Path(path)
        _refuse_other_files(path)
        values: dict[str, Any] = json.loads(json.dumps(recipe, allow_nan=False))
        made = _missing_folder(path)
        try:
            with user_errors(path):
                path.mkdir(parents=True, exist_ok=True)
                hold(path)
                return cls._open_locked(path, values)
        except BaseException:
            let_go(path)
            if made:
                shutil.rmtree(made, ignore_errors=True)
            raise

    @staticmethod
    def require_place(path: Path) -> None:
        """InputError where `open` could not begin a run in `path`; nothing is left behind."""
        _refuse_other_files(path)
        made = _missing_folder(path)
        with user_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        for folder in (path, *path.parents) if made else ():
            with contextlib.suppress(OSError):  # another run began there in the meantime
                folder.rmdir()
            if folder == made:
                return

    @classmethod
    def _open_locked(cls, path: Path, recipe: dict[str, Any]) -> RunFolder:
        run_json = path / "run.json"
        there = read_record(run_json) if run_json.is_file() else None
        if there is not None and there["recipe"] != recipe:
            there = judged_anew(path, there, recipe)
        for partial in remove_partial_files(path):
            logger.info("removed %s, left half-written by a process that was stopped", partial)
        if there is None and run_json.exists():
            logger.warning("%s is damaged: every stage of this run is rebuilt", run_json)
        record = there or {
            "recipe": recipe,
            "recipe_hash": recipe_hash(recipe),
            "stages": {},
        }
        record |= {
            "format": FORMAT,
            "versions": process.versions(),
            "git_commit": process.git_commit(),
            "machine": process.machine(),
        }
        for stage in record["stages"].values():
            if stage["status"] == "running":
                stage["status"] = "interrupted"
        write_record(run_json, record)
        return cls(path)

    def close(self) -> None:
        """Let other processes write this run again; also happens when the process ends."""
        let_go(self.path)

    # What is known of the run

    @property
    def record(self) -> dict[str, Any]:
        """A copy of the contents of run.json."""
        return json.loads(json.dumps(self._record))

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of this run, as JSON values."""
        return self.record["recipe"]

    @property
    def begun_with(self) -> str:
        """Hash of the recipe that the run began with: what no setting decides that may change
        depends on this.
        """
        judged = self._record.get("judged") or [self._record]
        return judged[0]["recipe_hash"]

    def reads_the_same(self, inputs: Iterable[Input]) -> bool:
        """Whether no file of what this run was recorded to read has been touched; contents are not
        looked at.
        """
        known = self._record.get("inputs", {})
        return all(
            item.name in known and item.state == known[item.name]["state"] for item in inputs
        )

    def check_inputs(self, inputs: Iterable[Input]) -> None:
        """Record what this run reads.  InputError where it is not what an earlier process read."""
        known = self._record.setdefault("inputs", {})
        given = list(inputs)
        if changed := [
            item.name for item in given if item.name in known and not item.is_as(known[item.name])
        ]:
            raise InputError(
                "--out",
                str(self.path),
                f"it holds a run of other contents of {', of '.join(changed)}",
                "Bring back what was there when the run began, or give another --out.",
            )
        known |= {item.name: item.facts() for item in given}
        self._write()

    def note(self, **facts: Any) -> None:
        """Keep facts of the run (name, pair, models, corpus, device, warnings, ...) as keys of
        run.json.
        """
        assert not facts.keys() & RESERVED, "these keys belong to the run folder itself"
        self._record |= facts
        self._write()

    # Stages

    def is_done(self, name: str) -> bool:
        """Whether stage `name` is complete and all its files are as it wrote them; says which file
        is not, but for what was removed with the cache.
        """
        stage = self._record["stages"].get(name)
        if stage is None or stage["status"] != "done" or self._was_removed(stage["outputs"]):
            return False
        problems = self._problems(stage["outputs"])
        for problem in problems:
            logger.warning("%s: the stage %r is run again", problem, name)
        if problems:
            stage["status"] = "damaged"
            self._record.setdefault("rebuilt", []).extend(
                f"{name}: {problem}" for problem in problems
            )
            self._write()
        return not problems

    @contextlib.contextmanager
    def stage(self, name: str, outputs: Iterable[Path]) -> Iterator[dict[str, Any]]:
        """Run a stage that writes `outputs` (files, or folders with all they hold) and record how
        it went.

        Yields a dict for facts to keep with the stage (JSON values).  On success the files'
        checksums, the seconds and the peak memory are recorded; after an error the stage is not
        done, and the error goes on.
        """
        outputs = [Path(output) for output in outputs]
        for output in outputs:
            assert output.is_relative_to(self.path), f"{output} is outside the run folder"
        facts: dict[str, Any] = {}
        entry: dict[str, Any] = {
            "status": "running",
            "started": _now(),
            "facts": facts,
            "outputs": {},
        }
        self._record["stages"][name] = entry
        self._write()
        process.reset_peak_memory()
        begun = time.monotonic()
        try:
            yield facts
        except BaseException as error:
            entry["status"] = "failed" if isinstance(error, Exception) else "interrupted"
            entry["error"] = (
                str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            )
            with contextlib.suppress(Exception):  # the error itself matters more than its record
                self._write()
            raise
        for partial in remove_partial_files(self.path):
            logger.info("removed %s, left half-written by a worker that died", partial)
        entry["outputs"] = dict(self._checksums(outputs))
        entry |= {
            "status": "done",
            "seconds": round(time.monotonic() - begun, 3),
            "peak_bytes": process.peak_memory_bytes(),
        }
        self._write()

    def forget(self, name: str) -> None:
        """Remove a stage and what it wrote, as if it had never been run."""
        for output in self._record["stages"].pop(name, {}).get("outputs", {}):
            (self.path / output).unlink(missing_ok=True)
        self._write()

    @property
    def told(self) -> list[Path]:
        """All that the report is made of: tables, texts, examples."""
        folders = {
            self.path / name.split("/")[0]
            for stage in self._record["stages"].values()
            for name in stage["outputs"]
            if name.endswith(".parquet") and "/" in name
        }
        own = {folder for folder in folders if folder not in (self.cache_folder,)}
        tables, texts = (sorted(self.path.glob(n)) for n in ("*.parquet", "vocabulary-*.json"))
        return [*tables, self.vocabulary, *texts, *sorted(own)]

    def text_of(self, model: str) -> str:
        """Which text a model reads: "" that of the first model, else the name of its tokenizer."""
        return self.record.get("corpus", {}).get("texts", {}).get(model, "")

    def token_texts(self, text: str) -> list[str | list[int]]:
        """What each token id of a text's tokenizer stands for (`corpus.token_text`)."""
        return json.loads(self.vocabulary_of(text).read_text("utf-8"))

    def checksum(self, path: Path) -> str | None:
        """The recorded SHA-256 of a file of the run; None where no stage that is done wrote it."""
        name = path.relative_to(self.path).as_posix()
        stages = [s for s in self._record["stages"].values() if s["status"] == "done"]
        return next((s["outputs"][name] for s in stages if name in s["outputs"]), None)

    def facts(self, name: str) -> dict[str, Any]:
        """The facts kept with stage `name`; empty if it has none."""
        return self.record["stages"].get(name, {}).get("facts", {})

    def verify(self) -> list[str]:
        """Everything wrong: stages not done, files missing or altered or half-written; [] if all is
        well.
        """
        problems = []
        if self._record.get("recipe_hash") != recipe_hash(self._record["recipe"]):
            problems.append("run.json: the recipe is not the one its hash was taken of")
        for name, stage in self._record["stages"].items():
            if stage["status"] != "done":
                problems.append(f"stage {name!r}: {stage['status']}")
            outputs = {
                path: checksum
                for path, checksum in stage["outputs"].items()
                if not path.startswith("cache/") or (self.path / path).exists()
            }
            problems.extend(f"{problem} (stage {name!r})" for problem in self._problems(outputs))
        partials = (path for path in self.path.rglob(".partial-*") if path.is_file())
        problems.extend(f"{path.relative_to(self.path)}: half-written" for path in partials)
        return problems

    def require_whole(self, *paths: Path) -> None:
        """InputError that names the first of these files, and those in these folders, that is not
        as it was written.
        """
        for stage in self._record["stages"].values():
            under = {
                name: digest
                for name, digest in stage["outputs"].items()
                if any((self.path / name).is_relative_to(path) for path in paths)
            }
            for problem in self._problems(under):
                raise InputError(
                    "run folder",
                    str(self.path),
                    f"a file of it is not as it was written: {problem}",
                    "Start the run again with the same --out: what is damaged is rebuilt.",
                )

    def _checksums(self, outputs: Iterable[Path]) -> Iterator[tuple[str, str]]:
        for output in outputs:
            if not output.exists():
                raise FileNotFoundError(f"the stage ended without writing {output}")
            files = (
                [output]
                if output.is_file()
                else sorted(path for path in output.rglob("*") if path.is_file())
            )
            for file in files:
                if not file.name.startswith(PARTIAL_PREFIX):
                    yield file.relative_to(self.path).as_posix(), sha256_file(file)

    def _was_removed(self, outputs: Iterable[str]) -> bool:
        """Whether some of a stage's files lay in the cache, and none of those is left."""
        cached = [name for name in outputs if name.startswith("cache/")]
        return bool(cached) and not any((self.path / name).exists() for name in cached)

    def _problems(self, checksums: Mapping[str, str]) -> list[str]:
        problems = []
        for name, expected in checksums.items():
            path = self.path / name
            if not path.is_file():
                problems.append(f"{name}: missing")
            elif sha256_file(path) != expected:
                problems.append(f"{name}: damaged (its SHA-256 is not the recorded one)")
        return problems

    def _write(self) -> None:
        write_record(self.run_json, self._record)


def _missing_folder(path: Path) -> Path | None:
    """The highest folder that making `path` would create; None if `path` exists."""
    missing = None
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            if folder.exists():
                break
        missing = folder
    return missing


def _refuse_other_files(path: Path) -> None:
    if not path.is_dir() or (path / "run.json").exists():
        return
    others = sorted(found.name for found in path.iterdir() if not found.name.startswith("."))
    if others:
        raise InputError(
            "--out",
            str(path),
            f"the folder holds other files ({', '.join(others[:3])}) and no run",
            "Give an empty or a new folder.",
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
