"""A million files through the folder scorer, with a decoder and a model that cost nothing: memory, time, and the output.

    python benchmarks/scoring_million.py                       # a million, one to two minutes of one core
    python benchmarks/scoring_million.py --files 20000         # a small one

The files are real, empty, and in folders of a thousand; every thousandth is one that the decoder refuses. Listing, threads,
batches, ledger and output are those of `cskd-hf score`. The run is stopped at 40 % by an error and started again, so
resuming a large ledger is measured too. Memory is what the process holds (resident set), read as it goes; rates are by
processor time, which other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cskd_hf.files import write_json
from cskd_hf.models.image_loading_cskd import ImageLoadError
from cskd_hf.scoring.command import ledger_path, score_into
from cskd_hf.scoring.ledger import Ledger
from cskd_hf.scoring.listing import Listing
from cskd_hf.scoring.outputs import write_results
from cskd_hf.scoring.scan import file_state

FOLDER_FILES = 1000
REFUSED_EVERY = 1000
PARTS = 20
OUTPUT = Path(__file__).parent / "results" / "scoring_million.json"


class Stopped(Exception):
    """The run breaks off here."""


class StubEngine:
    """Neither decodes nor computes: the score of a file is a function of its number.

    Args:
        stop_after: files; then it fails.
    """

    scale = (1.0, 10.0)
    provenance = None
    attributes = ()
    settings = {"weights": "none"}
    preparation = None

    def __init__(self, stop_after: int | None = None) -> None:
        self.scored = 0
        self.stop_after = stop_after

    def prepare(self, path: str) -> np.ndarray:
        number = int(os.path.basename(path)[:-4])
        if number % REFUSED_EVERY == REFUSED_EVERY - 1:
            raise ImageLoadError(path, "refused by the stub")
        return np.full((3, 1, 1), score_of(number), np.float32)

    def score(self, pixels: np.ndarray) -> list[dict[str, Any]]:
        self.scored += len(pixels)
        if self.stop_after and self.scored > self.stop_after:
            raise Stopped
        return [{"score": float(value), "score_std": 1.0, "scale": [1.0, 10.0]} for value in pixels[:, 0, 0, 0]]


def score_of(number: int) -> float:
    """Between 1 and 10, unlike for neighbours."""
    return 1.0 + number * 7919 % 9001 / 1000


def make_files(folder: Path, count: int) -> None:
    """Empty files `0000123.jpg`, a thousand a folder."""
    for number in range(count):
        parent = folder / f"{number // FOLDER_FILES:05d}"
        if not number % FOLDER_FILES:
            parent.mkdir(parents=True)
        os.close(os.open(parent / f"{number:07d}.jpg", os.O_CREAT | os.O_WRONLY))


def resident_mb() -> float:
    """Memory that this process holds, in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(folder: Path, output: Path, count: int, stop_after: int | None, batch_size: int) -> dict[str, Any]:
    """List, score and write; returns seconds and memory of each step, and at each twentieth of the files."""
    start, cpu_start = time.perf_counter(), time.process_time()
    facts: dict[str, Any] = {}

    def step(name: str) -> None:
        facts[name] = {
            "seconds": round(time.perf_counter() - start, 2),
            "cpu_seconds": round(time.process_time() - cpu_start, 2),
            "resident_mb": round(resident_mb(), 1),
        }

    with Ledger(ledger_path(str(output))) as ledger:
        listed = ledger.list_files(Listing([folder]))
        step("listed")
        ledger.accept(StubEngine.settings)
        facts["resumed_with"] = ledger.forget_changed(file_state)
        step("looked_for_changes")
        engine = StubEngine(stop_after)
        marks = []
        write, done = ledger.write, [0]

        def marking(batch: list) -> None:
            write(batch)
            done[0] += len(batch)
            if done[0] >= (len(marks) + 1) * count / PARTS:
                marks.append([done[0], round(time.process_time() - cpu_start, 3), round(resident_mb(), 1)])

        ledger.write = marking
        try:
            score_into(ledger, engine, batch_size=batch_size, state_of=file_state, quiet=True)
        except Stopped:
            facts["stopped_after"] = done[0]
        step("scored")
        facts["files_cpu_seconds_resident_mb"] = marks
        facts["listed_files"] = listed
        if "stopped_after" not in facts:
            write_results(ledger.results(), output, sample={})
            step("written")
            best = [result["score"] for result in ledger.results(best_first=True, top=1000)]
            assert best == sorted(best, reverse=True)
            step("best_1000")
    facts["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)
    return facts


def check(output: Path, count: int) -> None:
    """Every file once, in order, with its own score or its error.

    Raises:
        AssertionError: not so.
    """
    with open(output, newline="", encoding="utf-8") as file:
        rows = 0
        for number, row in enumerate(csv.DictReader(file)):
            assert row["path"].endswith(f"{number // FOLDER_FILES:05d}/{number:07d}.jpg"), row
            if number % REFUSED_EVERY == REFUSED_EVERY - 1:
                assert row["error"] == "refused by the stub" and not row["score"], row
            else:
                assert float(row["score"]) == np.float32(score_of(number)) and not row["error"], row
            rows += 1
    assert rows == count, (rows, count)


def simulate(count: int, work: Path, batch_size: int = 64) -> dict[str, Any]:
    """The whole of it, in an empty folder `work`."""
    make_files(work / "photos", count)
    output = work / "scores.csv"
    broken_off = run(work / "photos", output, count, int(0.4 * count), batch_size)
    assert not output.exists()
    resumed = run(work / "photos", output, count, None, batch_size)
    check(output, count)
    marks = resumed["files_cpu_seconds_resident_mb"]
    (first, from_seconds, from_mb), (last, to_seconds, to_mb) = marks[0], marks[-1]
    middle = marks[len(marks) // 2]
    return {
        "files": count,
        "batch_size": batch_size,
        "broken_off": broken_off,
        "resumed": resumed,
        "ledger_mb": round(ledger_path(str(output)).stat().st_size / 1e6, 1),
        "output_mb": round(output.stat().st_size / 1e6, 1),
        "output_whole": True,
        "growth_mb_while_scoring": round(to_mb - from_mb, 1),
        "files_a_cpu_second_first_half": round((middle[0] - first) / max(middle[1] - from_seconds, 1e-9)),
        "files_a_cpu_second_second_half": round((last - middle[0]) / max(to_seconds - middle[1], 1e-9)),
    }


def main() -> int:
    """Run it and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--work", help="folder for the files and the output; is made, and must not exist")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = simulate(arguments.files, Path(arguments.work or temporary) / "million", arguments.batch_size)
    write_json(arguments.output, results)
    for key, value in results.items():
        print(f"{key}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
