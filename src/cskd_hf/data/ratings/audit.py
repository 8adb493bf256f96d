"""The `cskd-hf data check` command: everything that is wrong with a rated set, before anything is trained on it."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ...files import write_json
from ..benchmarks import READERS
from ..collection import ImageCollection
from ..fingerprints import Fingerprints, take_fingerprints
from ..leak_guard import LeakGuard, find_duplicates
from ..locations import open_source
from ..sources import DatasetSource, NamedSource
from .checks import RatingsError
from .faults import Fault, FaultList, collect_faults
from .locations import open_ratings
from .schema import attributes_of, descriptions_of, score_values_of

TRAINING_SPLITS = ("train", "training")
_SHOWN = 10  # faults of each kind


def check_ratings(
    location: str | os.PathLike,
    *,
    unlabeled: Sequence[str] = (),
    labels_only: bool = False,
    duplicates: str = "perceptual",
    quiet: bool = True,
    **reading: Any,
) -> dict[str, Any]:
    """Find all faults of a rated set, not only the first few.

    Args:
        location: of the set, see `open_ratings`.
        unlabeled: places of images to train on without ratings, in which no image to evaluate on may be: those of every
            split but "train".
        labels_only: look at no image beyond whether its file exists.
        duplicates: copies with equal bytes ("exact"), or also those that show the same picture ("perceptual").
        quiet: no progress bars.
        reading: further arguments of `open_ratings`.

    Returns:
        ready for JSON: what was found (`rows`, `splits`, `score_values`, `attributes`, `about`, `images`); `faults`, each
        with kind, file, row, column, value and advice; `warnings`, of the same form: copies within one split; and
        `counts`, of each kind of both.

    Raises:
        RatingsError: the set is not there, or not in the layout that it should have.
        FileNotFoundError: unlabelled images are not there.
        ValueError: images are asked for and ruled out at once.
    """
    if labels_only and unlabeled:
        raise ValueError("labels_only looks at no image, so unlabeled ones cannot be compared; leave one of them out.")
    places = [NamedSource(open_source(place), place) for place in unlabeled]
    report: dict[str, Any] = {"data": str(location), "images": None}
    with collect_faults() as found:
        try:
            ds = open_ratings(location, **reading)
        except RatingsError:
            if not found.faults:
                raise
            ds = None  # no row is free of faults
    warnings: list[Fault] = []
    report |= {"rows": 0, "splits": {}} if ds is None else _facts(ds)
    if ds is not None and not labels_only:
        prints = take_fingerprints(DatasetSource(ds), quiet=quiet, description="rated images")
        report["images"] = _check_images(ds, prints, found, warnings, str(location), duplicates, quiet)
        if places:
            _check_leaks(ds, prints, places, found, str(location), quiet)
    missing = sum(fault.kind == "missing image" for fault in found.faults)
    report["missing_images"] = missing
    report["counts"] = dict(Counter(fault.kind for fault in (*found.faults, *warnings)))
    report["faults"] = [_plain(fault) for fault in found.faults]
    report["warnings"] = [_plain(fault) for fault in warnings]
    return report


def _facts(ds: datasets.Dataset) -> dict[str, Any]:
    info = descriptions_of(ds)[0]
    return {
        "name": info["name"],
        "about": info.get("about", ""),
        "rows": len(ds),
        "splits": dict(Counter(ds["split"][:])),
        "with_histogram": len(ds) - ds.data.column("distribution").null_count,
        "score_values": list(score_values_of(ds)),
        "attributes": {name: list(scale) for name, scale in attributes_of(ds).items()},
    }


def _check_images(
    ds: datasets.Dataset,
    prints: Fingerprints,
    found: FaultList,
    warnings: list[Fault],
    location: str,
    duplicates: str,
    quiet: bool,
) -> dict[str, int]:
    """Unreadable images and copies; returns the numbers of images."""
    keys, splits = prints.keys, dict(zip(ds["key"][:], ds["split"][:]))
    cells = ds.select_columns("image")
    absent = 0  # files that the reading was told to ignore
    for row, reason in prints.unreadable.items():
        path = cells[row]["image"]["path"]
        if cells[row]["image"]["bytes"] is None and path and "://" not in path and not os.path.exists(path):
            absent += 1
            continue
        file, place = found.places.get(keys[row], (location, f"row {row + 1}"))
        found.faults.append(Fault("unreadable image", file, place, "image", path or keys[row], reason))
    copies = find_duplicates(prints, perceptual=duplicates == "perceptual", quiet=quiet).matches
    rows = {key: row for row, key in enumerate(keys)}
    for row, match in copies.items():
        file, place = found.places.get(match.key, (location, f"row {row + 1}"))
        other = found.places.get(match.original, (location, f"row {rows[match.original] + 1}"))[1]
        how = (
            "has the same bytes as"
            if match.kind == "bytes"
            else f"shows the same picture ({match.distance} of 255 bits differ) as"
        )
        own, first = splits[match.key], splits[match.original]
        fault = Fault("copied image", file, place, "image", match.key, f"it {how} {match.original!r} ({other}).")
        if own != first:
            advice = f"{fault.advice[:-1]}, which is in the split {first!r}, not {own!r}; keep it in one split."
            found.faults.append(replace(fault, kind="shared between splits", advice=advice))
        else:
            warnings.append(fault)
    return {
        "found": len(prints) - absent,
        "unreadable": len(prints.unreadable) - absent,
        "copies": len(copies),
        "without_perceptual_hash": prints.plain(),
    }


def _check_leaks(
    ds: datasets.Dataset,
    prints: Fingerprints,
    places: Sequence[NamedSource],
    found: FaultList,
    location: str,
    quiet: bool,
) -> None:
    """Images to evaluate on among the unlabelled ones."""
    splits = ds["split"][:]
    rows = np.array([row for row, split in enumerate(splits) if split.lower() not in TRAINING_SPLITS], dtype=np.int64)
    row_of = {prints.keys[row]: int(row) for row in rows}
    others = take_fingerprints(ImageCollection(list(places)), quiet=quiet, description="unlabelled images")
    for match in LeakGuard(prints.take(rows)).find(others).matches.values():
        row = row_of[match.original]
        file, place = found.places.get(match.original, (location, f"row {row + 1}"))
        how = {"bytes": "same bytes", "perceptual": "same picture", "key": "same name"}[match.kind]
        advice = f"it is in the split {splits[row]!r} and among the unlabelled images as {match.key} ({how}); take it out there."
        found.faults.append(Fault("test image among the unlabelled", file, place, "image", match.original, advice))


def _plain(fault: Fault) -> dict[str, Any]:
    value = fault.value
    if not (value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))):
        value = str(value)
    return asdict(replace(fault, value=value))


# The command


def location_of(data: str, folder: str | None) -> str:
    """What `open_ratings` takes, from `NAME DIR`, `NAME:DIR` or `FILE`.

    Raises:
        RatingsError: a data set is named without its folder.
    """
    name = data.lower()
    if name in READERS and not os.path.exists(data):
        if folder is None:
            raise RatingsError(f"the folder of the data set {name!r} is missing; give it after the name: {name} DIR.")
        return f"{name}:{folder}"
    return data


def reading_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `open_ratings` from those of `data check` and `data convert`.

    Raises:
        RatingsError: one of them is not in its form.
    """
    named = location_of(namespace.data, namespace.folder) != namespace.data
    options = {
        "image_dir": None if named else namespace.folder,
        "score_values": namespace.score_values,
        "columns": dict(_pair(text, "COLUMN=NAME", "--columns") for text in namespace.columns) or None,
        "attributes": {
            name: _scale(scale, text)
            for text in namespace.attributes
            for name, scale in [_pair(text, "NAME=LOW:HIGH", "--attributes")]
        }
        or None,
        "images": namespace.images,
    }
    return {name: value for name, value in options.items() if value is not None}


def _pair(text: str, form: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise RatingsError(f"{option} has {text!r}; allowed: {form}.")
    return name, value


def _scale(text: str, whole: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise RatingsError(f"--attributes has {whole!r}; allowed: NAME=LOW:HIGH, e.g. color=1:5.") from None


def check_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf data check`.

    Args:
        namespace: as commands.py parses it.

    Returns:
        exit code: 0, or 1 where there are faults.
    """
    report = check_ratings(
        location_of(namespace.data, namespace.folder),
        unlabeled=namespace.unlabeled,
        labels_only=namespace.labels_only,
        duplicates=namespace.duplicates,
        quiet=namespace.quiet,
        **reading_options(namespace),
    )
    if namespace.output:
        write_json(Path(namespace.output), report)
    for line in _lines(report, bool(namespace.output)):
        encoding = sys.stdout.encoding or "utf-8"
        print(line.encode(encoding, "replace").decode(encoding))
    return 1 if report["faults"] else 0


def _lines(report: dict[str, Any], written: bool) -> list[str]:
    splits = ", ".join(f"{name} {count:,}" for name, count in report["splits"].items())
    lines = [
        f"{report.get('name', report['data'])}: {report['rows']:,} rated images without a fault in their row"
        + (f" ({splits})" if splits else "")
    ]
    if report.get("about"):
        lines.append(report["about"])
    if report["rows"]:
        values = report["score_values"]
        histograms = f"{report['with_histogram']:,} with a histogram of {len(values)} bins"
        lines.append(
            f"scale {values[0]:g} to {values[-1]:g}, {histograms if report['with_histogram'] else 'means alone'}"
        )
    if attributes := report.get("attributes"):
        lines.append(f"attributes: {', '.join(attributes)}")
    if images := report["images"]:
        lines.append(
            f"images: {images['found']:,} found, {report['missing_images']:,} missing, {images['unreadable']:,} unreadable"
        )
    else:
        lines.append(f"images: {report['missing_images']:,} missing; they were not opened")
    for title, entries in (("faults", report["faults"]), ("warnings", report["warnings"])):
        title = title[:-1] if len(entries) == 1 else title
        lines.append(f"{len(entries):,} {title}" + (":" if entries else ""))
        for kind in dict.fromkeys(entry["kind"] for entry in entries):
            chosen = [entry for entry in entries if entry["kind"] == kind]
            lines.append(f"  {kind}: {len(chosen):,}")
            lines += [f"    {entry['file']}: {Fault(**entry)}" for entry in chosen[:_SHOWN]]
            if len(chosen) > _SHOWN:
                rest = "" if written else "; --output FILE.json lists all"
                lines.append(f"    ... and {len(chosen) - _SHOWN:,} more{rest}")
    return lines
