"""`cskd-hf score` in processes that are killed (SIGKILL) while they write."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence

from command_processes import rank_environments

# A server that has imported everything once: each process starts in an instant, and without the state of the tests.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["cskd_hf.models.pipeline_cskd", "cskd_hf.scoring.command", "cskd_hf.cli", "pyarrow.parquet"]
)


def _run(arguments: list[str], environment: dict[str, str], batches: int | None, delay: float) -> None:
    import torch

    from cskd_hf.cli import main
    from cskd_hf.scoring.ledger import Ledger

    os.environ.update(environment)
    torch.set_num_threads(1)
    if batches is not None:
        write, written = Ledger.write, []

        def counting(self: Ledger, batch: list) -> None:
            written.append(batch)
            if len(written) == batches + 1:  # the moment lies before, in or after this batch or a later one
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            write(self, batch)

        Ledger.write = counting
    sys.exit(main(["score", *arguments, "--quiet"]))


def score(
    arguments: Sequence[object], *, processes: int = 1, batches: int | None = None, delay: float = 0.0
) -> list[int | None]:
    """Run the command; returns the exit code of each process, -9 where it was killed.

    Args:
        arguments: without the name of the command.
        processes: ranks, each with the environment that torchrun gives it.
        batches: each is killed after so many batches of its own.
        delay: and so many seconds.
    """
    started = []
    for environment in rank_environments(processes):
        given = ([str(argument) for argument in arguments], environment, batches, delay)
        started.append(_SERVER.Process(target=_run, args=given))
        started[-1].start()
    for process in started:
        process.join(120)
    if any(process.exitcode == -signal.SIGKILL for process in started):
        for process in started:  # torchrun ends the others too
            process.kill()
            process.join()
    return [process.exitcode for process in started]
