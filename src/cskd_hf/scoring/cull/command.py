"""The `cskd-hf cull` command: groups, stars, sidecars on request, and a contact sheet."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...files import public_name, replaced_file, write_json
from ..command import ALL_SCORED, NONE_SCORED, SOME_NOT_SCORED, check_reading
from ..engine import Engine, load_engine
from ..errors import ScoringError
from ..listing import Listing
from ..outputs import print_unreadable, printable
from .looking import Photograph, Thumbnails, look
from .near import near_groups, unit, usual_distance
from .sheet import write_sheet
from .sidecars import Outcome, write_sidecars
from .stars import check_cuts, give_stars, no_percentiles

SHEET, TABLE, RESULTS = "contact_sheet.html", "photographs.csv", "results.json"
RAW_EXTENSIONS = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw",
    ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
_LABELS = {"best": "Green", "other": "Red"}
_COLUMNS = ("path", "score", "score_std", "percentile", "stars", "group", "choice", "width", "height", "error")


def cull_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf cull`.

    Args:
        namespace: as `add_cull_options` parses it.

    Returns:
        exit code: 0, or 3 if an image could not be read or a sidecar not written, or 1 if no image has a score.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ScoringError: a wrong option, no image at all, or a model that cannot score or gives no embeddings.
    """
    cuts = _check(namespace)
    listing = Listing(namespace.images)
    paths = list(listing)
    if not paths:
        raise listing.nothing_found()
    engine = load_engine(
        namespace.model,
        reduced_decoding=namespace.reduced_decoding,
        allow_truncated=namespace.allow_truncated,
        device=namespace.device,
    )
    if namespace.stars_from == "model" and "percentile" not in _result_of_grey(engine):
        raise no_percentiles()  # before hours of scoring
    output = Path(namespace.output or _default_output(namespace.images))
    output.mkdir(parents=True, exist_ok=True)
    thumbnails = Thumbnails(output)
    try:
        photographs = _look(engine, paths, thumbnails, namespace)
        source = give_stars(photographs, source=namespace.stars_from, cuts=cuts)
        group(photographs, engine)
        facts = _facts(photographs, source, cuts, count_raw(namespace.images), namespace)
        shown = write_sheet(
            output / SHEET,
            photographs,
            thumbnails,
            title=f"Contact sheet: {_place(namespace.images)}",
            summary=_summary(photographs),
            facts=facts,
            limit=namespace.sheet_limit,
        )
    finally:
        thumbnails.close()
    _write_table(output / TABLE, photographs)
    outcomes = _sidecars(photographs, namespace) if namespace.xmp else []
    _write_results(output / RESULTS, photographs, outcomes, facts, source, shown)
    return _report(photographs, outcomes, output, source, bool(listing.closed))


def _result_of_grey(engine: Engine) -> dict[str, Any]:
    return engine.score(engine.prepare(np.full((64, 64, 3), 128, np.uint8))[None])[0]


def group(photographs: Sequence[Photograph], engine: Engine) -> None:
    """Set `group` and `choice`: of each group the highest score is the best, of equal ones the one with more pixels.

    Args:
        photographs: in the order of the listing.
        engine: that their embeddings are of.
    """
    rows = [one for one in photographs if one.hash is not None and one.embeds is not None]
    if len(rows) < 2:
        return
    hashes, embeds = np.stack([one.hash for one in rows]), unit(np.stack([one.embeds for one in rows]))
    usual = usual_distance(hashes, embeds, engine)
    numbers = near_groups(hashes, embeds, usual)
    members: dict[int, list[Photograph]] = {}
    for one, number in zip(rows, numbers.tolist()):
        if number:
            members.setdefault(number, []).append(one)
    for number, alike in members.items():
        best = max(alike, key=lambda one: (one.score, one.size[0] * one.size[1]))
        for one in alike:
            one.group, one.choice = number, "best" if one is best else "other"


def count_raw(places: Sequence[str]) -> int:
    """Raw files below the folders among the places; they are not read."""
    total = 0
    for place in places:
        if not os.path.isdir(place):
            continue
        for _, folders, names in os.walk(place):
            folders[:] = [name for name in folders if not name.startswith(".")]
            total += sum(name.lower().endswith(RAW_EXTENSIONS) and not name.startswith(".") for name in names)
    return total


def _check(namespace: argparse.Namespace) -> tuple[float, ...]:
    check_reading(namespace)
    if namespace.sheet_limit < 1:
        raise ScoringError(f"--sheet-limit {namespace.sheet_limit} must be at least 1.")
    for option in ("xmp_label", "overwrite_ratings"):
        if getattr(namespace, option) and not namespace.xmp:
            raise ScoringError(f"--{option.replace('_', '-')} needs --xmp, which says which sidecars are written.")
    if namespace.output and Path(namespace.output).exists() and not Path(namespace.output).is_dir():
        raise ScoringError(f"--output '{namespace.output}' is a file; give a folder.")
    return check_cuts(namespace.stars)


def _look(
    engine: Engine, paths: Sequence[str], thumbnails: Thumbnails, namespace: argparse.Namespace
) -> list[Photograph]:
    found = look(
        engine,
        paths,
        thumbnails,
        batch_size=namespace.batch_size,
        workers=namespace.workers,
        allow_truncated=namespace.allow_truncated,
    )
    return list(tqdm(found, total=len(paths), unit="image", disable=namespace.quiet, smoothing=0.05))


def _place(places: Sequence[str]) -> str:
    return public_name(places[0]) + (f" and {len(places) - 1} more" if len(places) > 1 else "")


def _default_output(places: Sequence[str]) -> str:
    return f"{Path(places[0]).resolve().name or 'photographs'}-cull"


def _facts(
    photographs: Sequence[Photograph],
    source: str,
    cuts: Sequence[float],
    raw: int,
    namespace: argparse.Namespace,
) -> dict[str, str]:
    scored = next((one for one in photographs if one.score is not None), None)
    facts = {"model": public_name(namespace.model)}
    if scored:
        low, high = scored.result["scale"]
        facts["scale"] = f"{low:g} to {high:g}"
    facts["stars"] = f"two, three, four and five begin at percentile {', '.join(f'{cut:g}' for cut in cuts)} " + (
        "of the reference set that the model was calibrated with" if source == "model" else "of these photographs"
    )
    facts["groups"] = "perceptual hash, confirmed by the model's own embedding; the best is the highest score"
    if raw:
        facts["raw files"] = f"{raw} skipped: they are not read, nor the previews in them"
    return facts


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _summary(photographs: Sequence[Photograph]) -> str:
    scored = sum(one.score is not None for one in photographs)
    groups = len({one.group for one in photographs if one.group})
    alike = sum(one.choice == "other" for one in photographs)
    text = f"{_count(scored, 'photograph')}, {_count(groups, 'group')} of near-duplicates"
    text += f"; {scored - alike} remain with only the best of each." if groups else "."
    return text + " The scores are a model's opinion: nothing was deleted or moved."


def _write_table(path: Path, photographs: Sequence[Photograph]) -> None:
    names = list(dict.fromkeys(name for one in photographs for name in _attributes(one)))
    # A file name need not be valid text; surrogateescape gives the bytes back that it was read from.
    with (
        replaced_file(path) as partial,
        open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = csv.DictWriter(file, [*_COLUMNS[:-1], *names, "error"])
        table.writeheader()
        for one in photographs:
            row: dict[str, Any] = {"path": one.path, "error": one.result.get("error")}
            if one.score is not None:
                row |= {
                    "score": one.score,
                    "score_std": one.result.get("score_std"),
                    "percentile": one.percentile,
                    "stars": one.stars,
                    "group": one.group or None,
                    "choice": one.choice,
                    "width": one.size[0],
                    "height": one.size[1],
                }
            table.writerow(row | _attributes(one))


def _attributes(one: Photograph) -> dict[str, Any]:
    """By column, named as `cskd-hf score` names them."""
    return {
        f"{start}_{name}": value
        for kind, start in (("attributes", "attribute"), ("prompt_attributes", "prompt"))
        for name, value in (one.result.get(kind) or {}).items()
    }


def _sidecars(photographs: Sequence[Photograph], namespace: argparse.Namespace) -> list[Outcome]:
    wanted = []
    for one in photographs:
        if one.score is not None:
            fields = {"Rating": str(one.stars)}
            if namespace.xmp_label and one.choice in _LABELS:
                fields["Label"] = _LABELS[one.choice]
            wanted.append((one.path, fields))
    return write_sidecars(wanted, namespace.xmp, overwrite=namespace.overwrite_ratings)


def _write_results(
    path: Path,
    photographs: Sequence[Photograph],
    outcomes: Sequence[Outcome],
    facts: dict[str, str],
    source: str,
    shown: int,
) -> None:
    groups: dict[int, list[Photograph]] = {}
    for one in photographs:
        if one.group:
            groups.setdefault(one.group, []).append(one)
    write_json(
        path,
        {
            "facts": facts,
            "stars_from": source,
            "photographs": len(photographs),
            "scored": sum(one.score is not None for one in photographs),
            "on_the_sheet": shown,
            "stars": {str(n): sum(one.stars == n for one in photographs) for n in range(1, 6)},
            "groups": [
                {
                    "group": number,
                    "best": next(one.path for one in alike if one.choice == "best"),
                    "others": [one.path for one in alike if one.choice == "other"],
                }
                for number, alike in sorted(groups.items())
            ],
            "sidecars": [outcome.__dict__ for outcome in outcomes],
        },
    )


def _report(
    photographs: Sequence[Photograph], outcomes: Sequence[Outcome], output: Path, source: str, unsearched: bool
) -> int:
    """Say what was done; returns the exit code."""
    scored = sum(one.score is not None for one in photographs)
    print(_summary(photographs))
    stars = ", ".join(f"{sum(one.stars == n for one in photographs)} x {n}" for n in range(5, 0, -1))
    print(f"stars by percentile {'of the model' if source == 'model' else 'of these photographs'}: {stars}")
    if outcomes:
        counts = Counter(outcome.what for outcome in outcomes)
        print(f"sidecars: {', '.join(f'{number} {what}' for what, number in counts.items())}; {RESULTS} names each")
        if counts["kept"]:
            print("kept: rated already; --overwrite-ratings replaces these ratings too")
    failed = [outcome for outcome in outcomes if outcome.what == "failed"]
    for outcome in failed[:10]:
        print(f"not written: {printable(outcome.sidecar)}: {outcome.reason}", file=sys.stderr)
    unreadable = [{"path": one.path, **one.result} for one in photographs if one.score is None]
    print_unreadable(unreadable, len(unreadable), str(output / TABLE))
    print(f"{output / SHEET} opens in a browser; {output / TABLE} has every photograph")
    if not scored:
        return NONE_SCORED
    return SOME_NOT_SCORED if unreadable or failed or unsearched else ALL_SCORED
