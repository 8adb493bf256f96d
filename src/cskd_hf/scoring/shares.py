"""One run in several processes, started by torchrun or `accelerate launch`: each scores its share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from .errors import ScoringError

Entry = TypeVar("Entry")

# A process that is done waits for the slowest one, and that may take days.
_PATIENCE = timedelta(days=30)


class Share:
    """This process among those of the run.

    Args:
        rank: its number.
        size: how many there are.
        device: of this process, as torch names it; none leaves the choice to others.
        state: `accelerate.PartialState`, where there are several.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: str | None = None, state: Any = None) -> None:
        self.rank, self.size, self.device, self._state = rank, size, device, state

    @classmethod
    def of_environment(cls, device: str | None = None) -> Share:
        """The share that torchrun gives, or the whole.

        Args:
            device: asked for; none takes an accelerator where there is one.

        Raises:
            ScoringError: of several processes, each of which has a device of its own, one device is asked for.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls(device=device)
        if device and ":" in device:
            raise ScoringError(
                f"--device {device}: each of the processes takes a device of its own; leave --device out, or give cpu."
            )
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu", timeout=_PATIENCE)
        return cls(state.process_index, state.num_processes, str(state.device), state)

    @property
    def first(self) -> bool:
        """Whether it does what only one process may do."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def of(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Its own of entries that every process has in the same order; shares may differ by one."""
        return itertools.islice(entries, self.rank, None, self.size)
