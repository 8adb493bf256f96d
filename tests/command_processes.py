"""`cskd-hf` in processes of its own, alone or as the ranks of one run, that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing.process import BaseProcess

# A server that has imported everything once: each process starts in an instant, and without the state of the tests.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["cskd_hf.training.align", "cskd_hf.cli"])


def _run(arguments: list[str], environment: dict[str, str]) -> None:
    import torch

    from cskd_hf.cli import main

    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.exit(main(arguments))


def rank_environments(processes: int) -> list[dict[str, str]]:
    """The environment that torchrun gives each of several processes; a single one gets none."""
    if processes == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1]}
    size = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    ranks = [{"RANK": rank, "LOCAL_RANK": rank} | size | address for rank in range(processes)]
    return [{name: str(value) for name, value in rank.items()} for rank in ranks]


def start_command(arguments: list[str], processes: int = 1) -> list[BaseProcess]:
    """Start a command; several processes get the environment that torchrun gives them."""
    started = []
    for environment in rank_environments(processes):
        started.append(_SERVER.Process(target=_run, args=(arguments, environment)))
        started[-1].start()
    return started


def finish_command(arguments: list[str], processes: int = 1) -> None:
    """Run a command to its end, which must be a good one."""
    started = start_command(arguments, processes)
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * processes


def kill(started: list[BaseProcess]) -> None:
    """SIGKILL; all must still have been running."""
    assert all(process.is_alive() for process in started), "it ended by itself"
    for process in started:
        os.kill(process.pid, signal.SIGKILL)
    for process in started:
        process.join()
