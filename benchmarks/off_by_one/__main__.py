"""When is a Mamba off by one?

    python -m benchmarks off-by-one [OUT]

Trains the tiny models of the grid, one in each of as many processes as there are processors, asks
each where it writes what it copies, and draws the figure.  A row is written as soon as it is
measured, and a run that was stopped goes on with the same command.  OUT is runs/off-by-one.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import polars as pl
from benchmarks.off_by_one.figure import save
from benchmarks.off_by_one.train import GRID, measured

from homolog.record.atomic import write_text
from homolog.threads import limit_process


def main(out: str = "runs/off-by-one") -> None:
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = {tiny: folder / f"{tiny.name}.json" for tiny in GRID}
    missing = [tiny for tiny, file in files.items() if not file.exists()]
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=limit_process, initargs=(1,)
    ) as pool:
        running = {pool.submit(measured, tiny): tiny for tiny in missing}
        for future in as_completed(running):
            if future.exception() is not None:
                pool.shutdown(cancel_futures=True)
            row = future.result()
            write_text(files[running[future]], json.dumps(row))
            said = row.get("verdict", "has not learnt it")
            print(
                f"{row['name']}: {said}, {row['accuracy']:.0%} right after {row['steps']} steps, "
                f"{row['seconds']:.0f} s",
                flush=True,
            )
    rows = [json.loads(file.read_text("utf-8")) for file in files.values()]
    table = pl.DataFrame(rows, infer_schema_length=None)
    save(table, folder)
    print(table.group_by("kernel", "verdict").len().sort("kernel", "verdict"))


if __name__ == "__main__":
    main()
