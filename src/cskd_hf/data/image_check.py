"""The `cskd-hf check-images` command: copies in a collection of images, and evaluation images in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ..files import write_json
from .collection import ImageCollection
from .evaluation_images import open_evaluation
from .fingerprints import take_fingerprints
from .leak_guard import Findings, LeakGuard, find_duplicates
from .locations import open_source
from .sources import NamedSource

_SHOWN = 10  # pairs of each kind of report


def check_images(
    images: Sequence[str], evaluation: Sequence[str] = (), *, duplicates: str = "perceptual", quiet: bool = False
) -> dict[str, Any]:
    """Look for copies without changing anything.

    Args:
        images: folders, saved datasets or Parquet files.
        evaluation: places of evaluation images, see `open_evaluation`.
        duplicates: "exact" compares bytes, "perceptual" pictures as well.
        quiet: no progress bar.

    Returns:
        `images`, `unreadable` (pairs of key and reason), `plain` (images without a perceptual hash), `duplicates`, and
        with evaluation images `evaluation_images` and `leaks`; both reports count each kind of match and list the pairs.

    Raises:
        FileNotFoundError, RatingsError: a place holds no images.
    """
    judged = [NamedSource(open_evaluation(place), place) for place in evaluation]
    collection = ImageCollection([NamedSource(open_source(place), place) for place in images])
    perceptual = duplicates == "perceptual"
    prints = take_fingerprints(collection, perceptual=perceptual or bool(judged), quiet=quiet)
    result: dict[str, Any] = {
        "images": len(prints),
        "unreadable": [[prints.keys[row], reason] for row, reason in prints.unreadable.items()],
        "plain": prints.plain() if perceptual or judged else None,
        "duplicates": find_duplicates(prints, perceptual=perceptual, quiet=quiet).report(),
    }
    if judged:
        guard = LeakGuard.of(judged, quiet=quiet)
        leaks: Findings = guard.find(prints)
        result |= {
            "evaluation_images": len(guard),
            "leaks": leaks.report() | {"same_name_only": leaks.other_pictures},
        }
    return result


def check_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf check-images`.

    Args:
        namespace: with `images`, `evaluation`, `duplicates`, `output` and `quiet`, as cli.py parses them.

    Returns:
        exit code: 0, or 1 where evaluation images were found, so that a script can stop there.
    """
    result = check_images(
        namespace.images, namespace.evaluation, duplicates=namespace.duplicates, quiet=namespace.quiet
    )
    if namespace.output:
        write_json(namespace.output, result)
    print(f"{result['images']} images, {len(result['unreadable'])} of them unreadable")
    _show(result["duplicates"], f"{result['duplicates']['found']} copies of other images")
    if "leaks" not in result:
        return 0
    _show(result["leaks"], f"{result['leaks']['found']} copies of the {result['evaluation_images']} evaluation images")
    return 1 if result["leaks"]["found"] else 0


def _show(report: dict[str, Any], title: str) -> None:
    kinds = ", ".join(f"{kind} {report[kind]}" for kind in ("bytes", "perceptual", "key"))
    print(f"{title} ({kinds})")
    for pair in report["pairs"][:_SHOWN]:
        line = f"  {pair['kind']:<10}  {pair['key']}  =  {pair['original']}"
        print(line.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8"))
    if len(report["pairs"]) > _SHOWN:
        print(f"  ... and {len(report['pairs']) - _SHOWN} more; --output FILE.json lists all")
