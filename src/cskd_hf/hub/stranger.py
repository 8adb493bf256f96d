"""Loads a folder as somebody who has never heard of this package: a script for a process of its own.

It imports nothing of the package and makes it impossible to import, so what runs is transformers and, unless the folder
is native, the folder's own code. Arguments: the folder, a .npz file of pictures, the .json file to write, and `code` or
`native`.
"""

from __future__ import annotations

import importlib.abc
import json
import sys
from types import ModuleType

PACKAGE = "cskd_hf"


class _Hidden(importlib.abc.MetaPathFinder):
    """Comes first of all finders, so it does not matter how the package was installed."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] == PACKAGE:
            raise ModuleNotFoundError(f"No module named '{name}' (hidden)", name=name)


def load_natively(folder: str, images: list) -> list[list[float]]:
    """The distributions of a stock classifier, without the folder's code."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        return [
            model(**processor(images=image, return_tensors="pt")).logits.softmax(-1)[0].tolist() for image in images
        ]


def load_with_code(folder: str, images: list) -> list[list[float]]:
    """The distributions of the pipeline, all of it the folder's own code."""
    import torch
    from transformers import AutoModel, pipeline

    rate = pipeline("image-aesthetics", model=folder, trust_remote_code=True, dtype=torch.float32)
    parts = {type(rate), type(rate.model), type(rate.model.config)}
    foreign = [kind.__module__ for kind in parts if not kind.__module__.startswith("transformers_modules.")]
    if foreign:
        raise SystemExit(f"{foreign} was loaded in place of the folder's own code")
    if type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__name__ != type(rate.model).__name__:
        raise SystemExit("AutoModel loads another class than AutoModelForImageClassification")
    return [list(rate(image)["distribution"].values()) for image in images]


def main(folder: str, pictures: str, answer: str, kind: str) -> None:
    sys.meta_path.insert(0, _Hidden())
    import numpy as np
    from PIL import Image

    with np.load(pictures) as stored:
        images = [Image.fromarray(stored[name]) for name in stored.files]
    load = load_natively if kind == "native" else load_with_code
    with open(answer, "w", encoding="utf-8") as file:
        json.dump({"distributions": load(folder, images)}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
