"""Runs of the example scripts in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
FSDP2 = Path(__file__).with_name("fsdp2_on_cpu.py")
# One thread: sums are then taken in one order, on every machine and beside any load.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def command(script: Path, arguments: list[str], processes: int = 1) -> list[str]:
    """One process, or as many as torchrun is to start."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else []), str(script), *arguments]


def finish(line: list[str]) -> None:
    """Run to the end."""
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-4000:]


def start_and_wait_for_step(line: list[str], folder: Path, step: int) -> subprocess.Popen:
    """Start a run, in a process group of its own, and return when its log has reached a step."""
    running = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT, start_new_session=True
    )
    while max((entry["step"] for entry in log_of(folder)), default=0) < step:
        assert running.poll() is None, "it ended by itself"
        time.sleep(0.02)
    return running


def log_of(folder: Path) -> list[dict]:
    """The whole lines of a run's log."""
    path = folder / "log.jsonl"
    text = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def figures_of(folder: Path) -> list[dict]:
    """The log, and the result, without what depends on the clock or the place."""
    result = json.loads((folder / "results.json").read_text())
    dropped = ("images_per_second", "data_wait", "seconds", "output_dir", "peak_memory_mib")
    return [{key: value for key, value in entry.items() if key not in dropped} for entry in [*log_of(folder), result]]
