"""Pictures for a visitor to try: drawn ones, free of anybody's rights."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ...data.synthetic import SyntheticPhotographs

_SIDE = 384
_SEED = 7


def write_examples(folder: Path, count: int = 6) -> list[Path]:
    """Draw synthetic photographs into a folder, which is made; the same ones every time."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, pixels in enumerate(SyntheticPhotographs(_SEED).generate(count).images.numpy(), 1):
        path = folder / f"drawn-{number}.jpg"
        image = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        image.save(path, quality=90)
        written.append(path)
    return written
