"""The result of an evaluation as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 5  # unreadable images
_GROUP_METRICS = ("srcc", "plcc", "krcc", "accuracy", "emd1", "mae")


def evaluation_table(result: Mapping[str, Any]) -> str:
    """Everything of a result but its images, in lines.

    Args:
        result: of `evaluate` or `evaluate_scores`.
    """
    data = result["data"]
    splits = ", ".join(f"{name} {count}" for name, count in data["splits"].items())
    scale = data["score_values"]
    lines = [f"{data['images']} images ({splits}), rated from {scale[0]:g} to {scale[-1]:g}"]
    lines += _unreadable(data["unreadable"])
    if result["settings"]["rescaled"]:
        lines.append("the ends of the model's scale were mapped to those of the ratings")
    lines += ["", *_metrics(result)]
    lines += left_out_lines(result)
    for column, groups in result["groups"].items():
        lines += ["", *_groups(f"by {column}", groups)]
    if result["attributes"]:
        named = [{"name": name, **entry} for name, entry in result["attributes"].items()]
        lines += ["", *_groups("attribute", named)]
    if (curve := result["calibration"]) is not None:
        spread = "n/a" if curve["spread"] is None else f"{curve['spread']:.2f}"
        lines += [
            "",
            f"calibration: expected error {curve['expected_calibration_error']:.4f}, bias {curve['bias']:+.4f}, spread of "
            f"the scores {spread} of that of the ratings",
        ]
    if result["comparison"]:
        lines += ["", *_comparison(result)]
    return "\n".join(lines)


def left_out_lines(result: Mapping[str, Any]) -> list[str]:
    """What is not measured, and why: metrics, those of one reason together, and columns."""
    lines = [f"{names} left out: {reason}" for names, reason in _by_reason(result["left_out"])]
    lines += [f"{names} not compared: {reason}" for names, reason in _by_reason(result["not_compared"])]
    return lines + [f"no figures by {column}: {reason}" for column, reason in result["not_grouped"].items()]


def _by_reason(left_out: Mapping[str, str]) -> list[tuple[str, str]]:
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        reasons.setdefault(reason, []).append(name)
    return [(", ".join(names), reason) for reason, names in reasons.items()]


def interval(figure: Mapping[str, float | None], digits: int = 4) -> str:
    """ "[0.1234, 0.5678]", or nothing where there is no interval."""
    return f"[{number(figure['low'], digits)}, {number(figure['high'], digits)}]" if "low" in figure else ""


def number(value: float | None, digits: int = 4, sign: str = "") -> str:
    """The figure, or "n/a" where it is undefined."""
    return "n/a" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def p_text(value: float | None) -> str:
    """ "0.031", "< 0.001" or "n/a"."""
    if value is None or math.isnan(value):
        return "n/a"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _unreadable(unreadable: Mapping[str, str]) -> list[str]:
    if not unreadable:
        return []
    lines = [f"{len(unreadable)} unreadable image(s) left out:"]
    lines += [f"  {key}: {reason}" for key, reason in list(unreadable.items())[:_SHOWN]]
    more = len(unreadable) - _SHOWN
    return lines + ([f"  ... and {more} more, all in results.json"] if more > 0 else [])


def _metrics(result: Mapping[str, Any]) -> list[str]:
    lines = []
    for metric, figure in result["metrics"].items():
        note = f"  above or below {result['settings']['threshold']:g}" if metric == "accuracy" else ""
        lines.append(f"{metric:>9}  {number(figure['value']):>8}  {interval(figure):<20}{note}".rstrip())
    return lines


def _groups(heading: str, groups: Sequence[Mapping[str, Any]]) -> list[str]:
    metrics = [name for name in _GROUP_METRICS if any(name in group.get("metrics", {}) for group in groups)]
    width = max(len(heading), *(len(group["name"]) for group in groups))
    head = "".join(f"  {name:>9}" for name in metrics)
    lines = [f"{heading:<{width}}  images{head}" + ("  95 % interval of srcc" if metrics else "")]
    for group in groups:
        line = f"{group['name']:<{width}}  {group['images']:>6}"
        if "note" in group:
            lines.append(f"{line}  {group['note']}")
            continue
        figures = group["metrics"]
        cells = "".join(f"  {number(figures[name]['value'] if name in figures else None):>9}" for name in metrics)
        lines.append(f"{line}{cells}  {interval(figures['srcc'])}".rstrip())
    return lines


def _comparison(result: Mapping[str, Any]) -> list[str]:
    names = [result.get(role, {}).get("name", role) for role in ("model", "against")]
    lines = [f"difference: {names[0]} minus {names[1]}, on the same images"]
    for metric, figure in result["comparison"].items():
        pair = f"{number(figure['a'])} - {number(figure['b'])}"
        lines.append(
            f"{metric:>9}  {number(figure['difference'], sign='+'):>8}  {interval(figure):<20}  "
            f"p {p_text(figure['p_value']):<8}  {pair}"
        )
    return lines
