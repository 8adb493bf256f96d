"""The `cskd-hf score` command: any number of images into one file, resumed where it was stopped."""

from __future__ import annotations

import argparse
import glob
import logging
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from .engine import Engine, is_onnx, load_engine
from .errors import ScoringError
from .ledger import Ledger
from .listing import Listing
from .outputs import check_output, print_table, print_unreadable, write_results
from .scan import FileState, file_state, hashed_state, scan_batches
from .shares import Share

logger = logging.getLogger(__name__)

ALL_SCORED, NONE_SCORED, SOME_NOT_SCORED = 0, 1, 3
"""Exit codes; 2 is for input that was refused, as with every command."""

_SHOWN = 20


def score_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf score`: score the images, write the results to a file where one is asked for, print a ranked table.

    Args:
        namespace: as `add_score_options` parses it.

    Returns:
        exit code: 0 if every image was scored, 3 if some could not be (0 for one of several processes), 1 if none could.

    Raises:
        FileNotFoundError: an image file or folder does not exist.
        ScoringError: a wrong option, no image at all, a checkpoint that cannot score, or results of another model.
    """
    _check(namespace)
    listing = Listing(namespace.images)
    share = Share.of_environment(namespace.device)
    if share.size > 1 and not namespace.output:
        raise ScoringError(f"{share.size} processes need a place to meet; give an --output that all of them can see.")
    ledger = _open_ledger(ledger_path(namespace.output)) if share.first else None
    try:
        engine = _prepare(ledger, listing, share, namespace)
        ledger = score_into(
            ledger, engine, share,
            path=ledger_path(namespace.output), batch_size=namespace.batch_size, workers=namespace.workers,
            state_of=_state_of(namespace), quiet=namespace.quiet,
        )  # fmt: skip
        if ledger is None:
            return ALL_SCORED
        code = _report(ledger, namespace, bool(listing.closed))
        # torchrun takes every other code for a crash, and may start all over.
        return ALL_SCORED if share.size > 1 and code == SOME_NOT_SCORED else code
    finally:
        if ledger:
            ledger.close()


def score_into(
    ledger: Ledger | None,
    engine: Engine,
    share: Share | None = None,
    *,
    path: Path | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    state_of: Callable[[str], FileState | None] = file_state,
    quiet: bool = False,
) -> Ledger | None:
    """Score the listed files of a ledger that have no result yet.

    Of several processes each writes a ledger of its own beside the common one, and the first one takes these over.

    Args:
        ledger: with its files and settings; of the first process only.
        engine: what scores.
        share: this process among several; none is the only one.
        path: of the common ledger, for several processes.
        batch_size, workers: as in `scan_batches`.
        state_of: what is kept of a file, to see later whether it has changed.
        quiet: no progress bar.

    Returns:
        the ledger with all results, open; of the first process only.
    """
    options = {"batch_size": batch_size, "workers": workers, "state_of": state_of, "quiet": quiet}
    if share is None or share.size == 1:
        _score(ledger, ledger, engine, Share(), **options)
        return ledger
    if ledger:
        ledger.close(keep_empty=True)
    share.wait()
    part = path.with_name(f"{path.name}-{share.rank}")
    with Ledger(path, readonly=True) as common, Ledger(part) as own:
        own.accept(engine.settings)
        _score(common, own, engine, share, **options)
    share.wait()
    if not share.first:
        return None
    ledger = Ledger(path)
    _absorb_parts(ledger, path)
    return ledger


def check_reading(namespace: argparse.Namespace) -> None:
    """Refuse what `add_reading_options` lets through but nothing could be done with.

    Raises:
        ScoringError: it names the option.
    """
    if namespace.batch_size < 1:
        raise ScoringError(f"--batch-size {namespace.batch_size} must be at least 1.")
    if namespace.workers is not None and namespace.workers < 0:
        raise ScoringError(f"--workers {namespace.workers} must be at least 0.")
    if namespace.device not in (None, "cpu") and is_onnx(namespace.model):
        raise ScoringError(
            f"--device {namespace.device} is for a checkpoint; '{namespace.model}' is an exported graph, which onnxruntime "
            "runs on the CPU. Leave --device out, or give the checkpoint that it was exported from."
        )


def ledger_path(output: str | None) -> Path | None:
    """Where the results of an output are kept while it is made, and for the next run."""
    return None if output is None else Path(output).with_name(f"{Path(output).name}.ledger")


def _score(
    source: Ledger,
    target: Ledger,
    engine: Engine,
    share: Share,
    *,
    batch_size: int,
    workers: int | None,
    state_of: Callable[[str], FileState | None],
    quiet: bool,
) -> None:
    total = -(-source.left() // share.size)
    with tqdm(total=total, unit="image", disable=quiet or not share.first, smoothing=0.05) as bar:
        batches = share.of(source.to_do(batch_size))
        for batch in scan_batches(engine, batches, workers=workers, state_of=state_of):
            target.write(batch)
            bar.update(len(batch))


def _check(namespace: argparse.Namespace) -> None:
    check_output(namespace.output)
    check_reading(namespace)
    if namespace.top < 0:
        raise ScoringError(f"--top {namespace.top} must be at least 1, or 0 for all.")


def _state_of(namespace: argparse.Namespace) -> Callable[[str], FileState | None]:
    return hashed_state if namespace.resume_by == "hash" else file_state


def _prepare(ledger: Ledger | None, listing: Listing, share: Share, namespace: argparse.Namespace) -> Engine:
    """The engine, and in the first process a ledger that knows what is left to do."""
    if ledger and not ledger.list_files(listing):
        raise listing.nothing_found()
    engine = load_engine(
        namespace.model,
        reduced_decoding=namespace.reduced_decoding,
        allow_truncated=namespace.allow_truncated,
        device=share.device,
    )
    if ledger and ledger.path:
        ledger.accept(engine.settings, restart=namespace.restart)
        _absorb_parts(ledger, ledger.path, drop=namespace.restart)
        if kept := ledger.forget_changed(_state_of(namespace)):
            logger.info("%d images have a score already and have not changed", kept)
    return engine


def _open_ledger(path: Path | None) -> Ledger:
    """The ledger of an output.

    Raises:
        ScoringError: another run uses it. One of several processes has closed it, and writes to its parts.
    """
    for part in _parts_of(path) if path else ():
        Ledger(part).close(keep_empty=True)
    return Ledger(path)


def _parts_of(path: Path) -> list[Path]:
    """Ledgers of the processes of this or of a killed run; SQLite's own files lie beside a ledger too."""
    found = sorted(path.parent.glob(f"{glob.escape(path.name)}-*"))
    return [part for part in found if part.name.removeprefix(f"{path.name}-").isdigit()]


def _absorb_parts(ledger: Ledger, path: Path, drop: bool = False) -> None:
    """Take over what other processes of this or of a killed run have scored."""
    for part in _parts_of(path):
        if drop:
            part.unlink()
        else:
            ledger.absorb(part)


def _report(ledger: Ledger, namespace: argparse.Namespace, unsearched: bool) -> int:
    """Write the output and print the table; returns the exit code."""
    scored, unreadable = ledger.counts()
    if namespace.output:
        results = ledger.results(
            best_first=namespace.sort == "score", top=namespace.top, unreadable=False if namespace.top else None
        )
        write_results(results, namespace.output, sample=next(ledger.results(unreadable=False), {}))
    if scored:
        # A file holds them all, so the terminal need not.
        shown = namespace.top or (min(scored, _SHOWN) if namespace.output else scored)
        print_table(ledger.results(top=shown, unreadable=False), min(shown, scored), scored)
    if unreadable:
        print_unreadable(ledger.results(unreadable=True), unreadable, namespace.output if not namespace.top else None)
    if not scored:
        return NONE_SCORED
    return SOME_NOT_SCORED if unreadable or unsearched else ALL_SCORED
