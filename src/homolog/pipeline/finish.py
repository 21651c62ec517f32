"""How every study ends: the report, and nothing left in the cache; and work that may fail alone."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from homolog.dictionaries import Quality, SparseAutoencoder
from homolog.errors import InputError
from homolog.progress import Progress
from homolog.record.atomic import sha256_bytes
from homolog.record.run_folder import RunFolder
from homolog.report import write_report


def finish(run: RunFolder, progress: Progress) -> Path:
    """Write the report of a run whose tables are complete, unless it is there; returns its
    index.html.

    The cache stays while something has failed: what it needs is then not made again when the run
    goes on.
    """
    failed = sorted(run.record.get("failed", {}))
    if not failed:
        run.drop_cache()  # first, since nobody asks again when the report is done
    if not is_reported(run):
        with run.stage("report", [run.report_folder]) as facts, progress.stage("write the report"):
            if failed:
                facts["failed"] = failed
            facts["of"] = _of(run)
            write_report(run.path)
    return run.report_folder / "index.html"


def is_reported(run: RunFolder) -> bool:
    """Whether the report is complete, of the tables and the failures as they are now."""
    facts, failed = run.facts("report"), sorted(run.record.get("failed", {}))
    current = facts.get("failed", []) == failed and facts.get("of") == _of(run)
    return current and run.is_done("report")


def _of(run: RunFolder) -> str:
    """Identifies the tables of a run, and what it was judged by where that is not as it began."""
    stages = run.record["stages"].values()
    written = {name: digest for stage in stages for name, digest in stage["outputs"].items()}
    tables = [name for name in sorted(written) if name.endswith(".parquet")]
    kept = [name for name in tables if not run.path.joinpath(name).is_relative_to(run.cache_folder)]
    judged = [run.record["recipe_hash"]] if "judged" in run.record else []
    return sha256_bytes(*judged, *(f"{name} {written[name]}" for name in kept))


@contextmanager
def by_itself(run: RunFolder, work: str, progress: Progress) -> Iterator[None]:
    """Work that the rest of a run does without: where it fails, the rest goes on, and `failed` in
    run.json names it.

    It stays named there until it has succeeded.  Stopping by Ctrl-C or a signal stops the run.
    """
    try:
        yield
    except SystemError:  # how compiled code reports an interrupt
        raise
    except Exception as error:
        known = isinstance(error, InputError)
        words = str(error) if known else f"{type(error).__name__}: {error}"
        told = {"error": words, "traceback": None if known else traceback.format_exc()}
        run.note(failed=run.record.get("failed", {}) | {work: told})
        progress.note(f"{work} failed, the rest goes on: {words}")
    else:
        failed = run.record.get("failed", {})
        if failed.pop(work, None) is not None:
            run.note(failed=failed)


def quality_row(
    name: str,
    label: str,
    layer: int,
    sae: SparseAutoencoder,
    sparsity: float | None,
    quality: Quality,
) -> dict[str, Any]:
    """A dictionary's row of the table `saes`: what it is, and its quality; undefined numbers are
    None.
    """
    row = {
        "model": name,
        "label": label,
        "layer": layer,
        "kind": sae.kind,
        "d_sae": sae.d_sae,
        "sparsity": sparsity,
        "tokens_trained": sae.metadata.get("tokens_trained"),
    }
    measured = row | quality.as_table_row()
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in measured.items()}
