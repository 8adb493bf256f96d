"""A trained scorer as a torch.export program: runs with torch alone, and is what compilers and mobile runtimes start from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from ..files import replaced_folder, write_json
from .native import ExportError, probe_pixels
from .onnx_graphs import TOLERANCE, Scorer, ScorerModule, first_line
from .places import EXPORT_FILE, checked_output

PROGRAM_FILE, METADATA_FILE = "model.pt2", "metadata.json"
_LIKE = 1e-5  # largest difference of a score, as a share of the scale, at the size it was exported with


def export_torch(checkpoint: str | os.PathLike, output: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a checkpoint as a program of `torch.export`, from `pixel_values` to the outputs of `export_onnx`.

    The batch is dynamic. Height and width are, too, where the encoder takes images of any size (most convolutional ones
    do), and else those of the checkpoint's preprocessing; export.json says which.

    Args:
        checkpoint: trained teacher or student, Hub name or folder.
        output: folder to make. It appears only when the program, saved and loaded again, gives the scores of the
            checkpoint, at other sizes, too, where they are dynamic.
        overwrite: replace an earlier export in `output`.

    Returns:
        The folder: model.pt2; metadata.json, what the metadata of the ONNX graphs hold; export.json.

    Raises:
        ExportError: torch.export cannot follow the encoder, or the program gives other scores.
        ValueError: `output` exists, see `checked_output`; there is no such checkpoint, or it has no trained head.
    """
    output = checked_output(checkpoint, output, overwrite)
    scorer = Scorer.load(checkpoint)
    pixels = probe_pixels(scorer.preprocessing)
    with replaced_folder(output) as partial:
        outputs, sizes = _write_program(scorer, pixels, partial / PROGRAM_FILE)
        write_json(partial / METADATA_FILE, scorer.metadata() | {"outputs": outputs})
        write_json(partial / EXPORT_FILE, {"format": "torch-export", **sizes})
    return output


def _write_program(scorer: Scorer, pixels: torch.Tensor, file: Path) -> tuple[list[str], dict[str, Any]]:
    """Write the program with dynamic sizes, or where that fails without; returns the outputs' names and what was found.

    Raises:
        ExportError: neither works.
    """
    module = ScorerModule(scorer.model)
    reasons = []
    for dynamic in (True, False):
        try:
            _save(module, pixels, dynamic, file)
            gap = _check(scorer, module, pixels, dynamic, file)
        except Exception as error:  # torch.export raises all kinds; the reason is told where no way is left
            reasons.append(first_line(error))
            continue
        if gap <= (TOLERANCE if dynamic else _LIKE):
            height, width = pixels.shape[-2:]
            size = "any" if dynamic else [height, width]
            fixed = {} if dynamic else {"why_fixed": reasons[0]}
            return module.names, {"size": size, "difference": {PROGRAM_FILE: gap}, **fixed}
        reasons.append(f"the saved program gives scores that differ by up to {gap:.2g} of the scale")
    raise scorer.refused("torch-export", reasons[-1])


def _save(module: ScorerModule, pixels: torch.Tensor, dynamic: bool, file: Path) -> None:
    example = pixels[:2]
    shape: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if dynamic:
        # AUTO: each encoder has a smallest size of its own. Where torch settles on one size, the check finds out.
        shape |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes={"pixel_values": shape})
    for node in program.graph.nodes:  # the places of the maker's machine
        node.meta.pop("stack_trace", None)
    torch.export.save(program, file)


@torch.no_grad()
def _check(scorer: Scorer, module: ScorerModule, pixels: torch.Tensor, dynamic: bool, file: Path) -> float:
    """The largest difference of a score as a share of the scale: in batches of 1 and 3, and of other sizes."""
    program = torch.export.load(file).module()
    batches = [pixels[:1], pixels[1:]]
    if dynamic:
        height, width = pixels.shape[-2:]
        # One is smaller and of odd numbers: what only takes multiples of its stride does not take any size.
        sizes = [(height + 32, width), (height, width + 64), (2 * height, 2 * width), (height - 7, width - 3)]
        batches += [torch.nn.functional.interpolate(pixels[:1], size=size) for size in sizes]
    number = module.names.index("score")
    gaps = torch.stack([(program(batch)[number] - module(batch)[number]).abs().max() for batch in batches])
    return gaps.max().item() / scorer.span  # torch's maximum keeps what is not a number, Python's may drop it


class TorchProgram:
    """A program of `export_torch`, loaded: scores prepared pixels with torch alone.

    Args:
        folder: that `export_torch` wrote.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        folder = Path(folder)
        for name in (PROGRAM_FILE, METADATA_FILE):
            if not (folder / name).is_file():
                raise ExportError(f"'{folder}' has no {name}; make it with `cskd-hf export --format torch-export`.")
        self.metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        self.program = torch.export.load(folder / PROGRAM_FILE).module()

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """`(batch, 3, height, width)` to the outputs by name."""
        return dict(zip(self.metadata["outputs"], self.program(pixel_values)))
