"""The `cskd-hf explain` command: why a picture has its score, as a page, a PNG of each and JSON."""

from __future__ import annotations

import argparse
import base64
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm

from ..evaluation.plotting import write_page
from ..files import public_name, replaced_file, write_json
from ..models.image_loading_cskd import ImageLoadError, load_image
from .command import ALL_SCORED, NONE_SCORED, SOME_NOT_SCORED
from .engine import is_onnx, load_pipeline
from .errors import ScoringError
from .listing import Listing
from .outputs import printable, shown_attributes
from .preparation import seen_box
from .saliency import GRID, placed_saliency, saliency_map, saliency_overlay, seen_picture

if TYPE_CHECKING:
    from ..models.pipeline_cskd import ImageAestheticsPipeline

PAGE, RESULTS = "explanation.html", "explanation.json"
OVERLAY_SIDE = 1280
"""Long side in pixels of an overlay; a larger photograph is reduced to it."""

_PAGE_SIDE, _PAGE_QUALITY = 640, 82
_STEM_BYTES = 180  # of a picture's name in that of its overlay; file systems take 255 with all that is added


def explain_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf explain`.

    Args:
        namespace: as `add_explain_options` parses it.

    Returns:
        exit code: 0, 3 if an image could not be read, 1 if none could.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ScoringError: a wrong option, no image, or a model that has no gradients or cannot score.
    """
    if namespace.samples < 1:
        raise ScoringError(f"--samples {namespace.samples} must be at least 1.")
    output = Path(namespace.output)
    if output.exists() and not output.is_dir():
        raise ScoringError(f"--output '{output}' is a file; give a folder.")
    if is_onnx(namespace.model):
        raise ScoringError(
            f"'{namespace.model}' is an exported graph without gradients; give the checkpoint it is of."
        )
    listing = Listing(namespace.images)
    own = output.resolve()
    paths = [path for path in listing if own not in Path(path).resolve().parents]  # overlays of an earlier run
    if not paths:
        raise listing.nothing_found()
    rate = load_pipeline(namespace.model, namespace.device)
    explained, cells = [], []
    for number, path in enumerate(tqdm(paths, unit="image", disable=namespace.quiet or len(paths) < 3), start=1):
        try:
            picture = load_image(Path(path))  # a file, even if it is named like a URL
            result, overlay = explain(rate, picture, samples=namespace.samples)
        except ImageLoadError as error:
            explained.append({"path": path, "error": error.reason})
            print(f"not explained: {printable(path)}: {error.reason}", file=sys.stderr)
            continue
        stem = printable(Path(path).stem).encode()[:_STEM_BYTES].decode(errors="ignore")
        name = f"{number:03d}-{stem}.png"
        with replaced_file(output / name) as partial:
            overlay.save(partial, "PNG")
        explained.append({"path": path, "overlay": name, **result})
        cells.append(_cell(path, result, picture, overlay, rate.model.config.attributes or {}))
    _write(output, namespace.model, explained, cells, namespace.samples)
    if cells:
        print(f"{len(cells)} explained: {output / PAGE} opens in a browser; the overlays lie beside it")
    complete = len(cells) == len(paths) and not listing.closed
    return NONE_SCORED if not cells else ALL_SCORED if complete else SOME_NOT_SCORED


def explain(
    rate: ImageAestheticsPipeline, picture: Image.Image, *, samples: int = 8
) -> tuple[dict[str, Any], Image.Image]:
    """What the pipeline gives for a picture, and where in it the score depends on what is there.

    Args:
        rate: the pipeline.
        picture: upright RGB, as `load_image` gives it.
        samples: see `saliency_map`.

    Returns:
        the pipeline's result with `saliency` (rows of a grid over what the model sees, 0 to 1) and `seen` (left, top,
        right and bottom of that part, as shares of the picture; beyond 0 and 1 where the processor pads), and the
        overlay. Of a processor that this is not known of, `seen` is none and the overlay is on what the model gets.
    """
    pixels = rate.preprocess(picture)["pixel_values"]  # (1, 3, H, W)
    outputs = rate.forward({"pixel_values": pixels})
    result = rate.postprocess(outputs)
    saliency = saliency_map(rate.model, pixels, samples=samples)[0]  # (H, W)
    cells = F.adaptive_avg_pool2d(saliency[None], tuple(min(GRID, side) for side in saliency.shape))[0]
    processor = rate.image_processor
    box = seen_box(processor, picture.size)
    if box is None:
        shown = seen_picture(pixels[0], processor.image_mean, processor.image_std)
    else:
        shown = picture.copy()
        shown.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.LANCZOS)
        saliency = placed_saliency(saliency, shown.size, box)
    overlay = saliency_overlay(shown, emphasised(saliency))
    return result | {"saliency": cells.tolist(), "seen": box}, overlay


def emphasised(saliency: torch.Tensor) -> torch.Tensor:
    """The map for the eye: what lies below its median is 0, so that it does not colour the whole picture.

    Args:
        saliency: `(height, width)`, 0 to 1 and NaN.
    """
    median = saliency.nanmedian()
    return ((saliency - median) / (1 - median)).clamp(min=0) if median < 1 else saliency


def _cell(
    path: str, result: Mapping[str, Any], picture: Image.Image, overlay: Image.Image, scales: Mapping[str, Any]
) -> dict[str, Any]:
    """What the page shows of a picture."""
    low, high = result["scale"]
    distribution = result["distribution"]
    top = max(distribution.values()) or 1.0
    attributes = {}
    for name, (field, value) in shown_attributes(result).items():
        low_end, high_end = scales[name] if field == "attributes" else (0, 1)
        share = (value - low_end) / (high_end - low_end)
        attributes[name] = (f"{value:.3g}", round(100 * min(max(share, 0), 1)))
    return {
        "name": printable(Path(path).name),
        "picture": _uri(picture),
        "overlay": _uri(overlay),
        "score": f"{result['score']:.2f}",
        "spread": f"{result['score_std']:.2f}",
        "scale": f"{low:g} to {high:g}",
        "percentile": f"{result['percentile']:.0f}" if "percentile" in result else "",
        "bins": [(name, f"{share:.3f}", round(100 * share / top, 1)) for name, share in distribution.items()],
        "attributes": attributes,
        "cropped": result["seen"] is not None and any(side > 1e-3 for side in _outside(result["seen"])),
    }


def _outside(box: tuple[float, float, float, float]) -> tuple[float, ...]:
    """How much of the picture lies beyond each side of the box."""
    left, top, right, bottom = box
    return left, top, 1 - right, 1 - bottom


def _uri(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((_PAGE_SIDE, _PAGE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_PAGE_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _write(
    output: Path, model: str, explained: list[dict[str, Any]], cells: list[dict[str, Any]], samples: int
) -> None:
    write_json(output / RESULTS, {"model": public_name(model), "images": explained})
    saliency = (
        f"mean gradient of the score over {samples} noisy copies (SmoothGrad), in {GRID} x {GRID} cells; it shows where a "
        "small change would move the score most, not whether up or down; the half of the picture where it matters least is grey"
    )
    write_page(
        output / PAGE,
        "explanation.html",
        title="Why this score",
        summary=f"{len(cells)} photographs, scored by {printable(public_name(model))}.",
        cells=cells,
        facts={"saliency": saliency, "torch": torch.__version__},
    )
