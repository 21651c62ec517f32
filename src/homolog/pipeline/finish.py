"""How every study ends: the report, and nothing left in the cache; and work that may fail alone."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from homolog.corpus import TokenWindows
from homolog.dictionaries import Quality, SparseAutoencoder
from homolog.errors import InputError
from homolog.features.beginnings import measure_beginning
from homolog.models import LanguageModel
from homolog.progress import Progress
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
    if not run.is_done("report") or run.facts("report").get("failed", []) != failed:
        with run.stage("report", [run.report_folder]) as facts, progress.stage("write the report"):
            if failed:
                facts["failed"] = failed
            write_report(run.path)
    return run.report_folder / "index.html"


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
        why = {"error": words, "traceback": None if known else traceback.format_exc()}
        run.note(failed=run.record.get("failed", {}) | {work: why})  # parts of it may stand there
        progress.note(f"{work} failed, the rest goes on: {words}")
    else:
        failed = run.record.get("failed", {})
        if work in failed:
            run.note(failed={other: why for other, why in failed.items() if other != work})


def beginning_missed(
    model: LanguageModel, name: str, windows: TokenWindows, progress: Progress
) -> list[str]:
    """In words, that text is read much better after the token that the tokenizer puts first."""
    beginning = measure_beginning(model, windows)
    if beginning is None or not beginning.is_missed:
        return []
    progress.note(f"Warning: {beginning.words(name)}.")
    return [beginning.words(name)]


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
