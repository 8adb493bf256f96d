"""The "image-aesthetics" pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import Pipeline

from .calibration_cskd import calibrated_score, percentile
from .image_loading_cskd import ImageLoadError, load_image


class ImageAestheticsPipeline(Pipeline):
    """Scores images on the scale of the ratings that the model was trained on.

    ```python
    >>> import cskd_hf
    >>> from transformers import pipeline
    >>> rate = pipeline("image-aesthetics", model="runs/demo/student")
    >>> rate("photo.jpg")
    {"score": 6.1, "score_std": 1.4, "scale": [1.0, 10.0], "distribution": {"1": 0.01, ...}, "provenance": {...}}
    ```
    """

    _load_image_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_processor = False
    # Left unset, transformers would also look for a video processor and ask whether to run the checkpoint's code.
    _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not hasattr(self.model.config, "score_values"):
            raise ValueError(
                f"{type(self.model).__name__} has no score_values, so it is no image-aesthetics model; "
                "train one with `cskd-hf student`, or use pipeline('image-classification')."
            )
        if (self.model.config.architectures or ["CSKDForImageAesthetics"])[0] == "CSKDForFeatureAlignment":
            raise ValueError(
                "this is a phase-1 checkpoint (CSKDForFeatureAlignment) without a trained head; train a teacher or a "
                "student from it first: `cskd-hf teacher --encoder ...`."
            )

    def __call__(self, inputs: Any, **kwargs: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """Score one image or many.

        Args:
            inputs: a path, URL, bytes, PIL image, or a list, generator or dataset of these.
            kwargs: `batch_size` and `num_workers`, used for lists, generators and datasets.

        Returns:
            For each image `score` (mean of the predicted histogram) and `score_std` on the scale, `scale` (lowest and
            highest possible score), `distribution` (probability by bin value) and `provenance`; of a model with
            attributes also `attributes`, the value of each by name; of a calibrated one also `percentile`, the share in
            percent of its reference set that scores lower, and `calibrated_score`, the rating that images of such a
            score got, where that was fitted.

        Raises:
            ImageLoadError: an image cannot be read; the message names it.
        """
        return super().__call__(inputs, **kwargs)

    def score_many(self, images: Iterable[Any], load: Callable[[Any], Any] | None = None) -> list[dict[str, Any]]:
        """Score images in one forward for each shape; an unreadable one does not cost the others their scores.

        Args:
            images: what `load_image` takes. Of each only the prepared pixels are kept until all are read.
            load: makes that of whatever `images` holds, e.g. within limits of its own; raises `ImageLoadError`.

        Returns:
            For each image, in order, what the call returns for it, or `{"error": reason}`.
        """
        results: list[dict[str, Any]] = []
        by_shape: dict[torch.Size, list[tuple[int, torch.Tensor]]] = {}
        for number, image in enumerate(images):
            results.append({})
            try:
                pixels = self.preprocess(load(image) if load else image)["pixel_values"]  # (1, 3, height, width)
            except ImageLoadError as error:
                results[number]["error"] = error.reason
            else:
                by_shape.setdefault(pixels.shape, []).append((number, pixels))
        for members in by_shape.values():
            numbers, pixels = zip(*members)
            outputs = self.forward({"pixel_values": torch.cat(pixels)})
            for place, number in enumerate(numbers):
                results[number] |= self.postprocess(
                    {name: value[place : place + 1] for name, value in outputs.items()}
                )
        return results

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        if kwargs:
            raise TypeError(f"unknown arguments {sorted(kwargs)}; allowed: batch_size, num_workers.")
        return {}, {}, {}

    def preprocess(self, image: Any) -> dict[str, torch.Tensor]:
        inputs = self.image_processor(images=load_image(image), return_tensors="pt")
        return inputs.to(self.model.dtype)

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        output = self.model(**model_inputs)
        kept = {"distribution": output.distribution, "score": output.score}
        return kept if output.attributes is None else kept | {"attributes": output.attributes}

    def postprocess(self, model_outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        first = {name: value[0] for name, value in model_outputs.items()}
        return score_result(self.model.config, **first)


def score_result(
    config: Any, distribution: torch.Tensor, score: torch.Tensor, attributes: torch.Tensor | None = None
) -> dict[str, Any]:
    """What the pipeline says of an image.

    Args:
        config: with `score_values`, `provenance`, `calibration` and `attributes`, as `CSKDConfig` has them.
        distribution: `(bins,)`.
        score: `()`.
        attributes: `(n_attributes,)`.
    """
    distribution = distribution.double()
    values = torch.tensor(config.score_values, dtype=torch.float64)
    mean = score.item()
    variance = (distribution * (values - (distribution * values).sum()).square()).sum()
    result = {
        "score": mean,
        "score_std": variance.sqrt().item(),
        "scale": [values[0].item(), values[-1].item()],
        "distribution": {f"{v:g}": p for v, p in zip(config.score_values, distribution.tolist())},
        "provenance": config.provenance,
    }
    if calibration := config.calibration:
        result["percentile"] = percentile(mean, calibration["quantiles"])
        if calibration.get("map"):
            result["calibrated_score"] = calibrated_score(mean, **calibration["map"])
    if attributes is not None:
        result["attributes"] = dict(zip(config.attributes, attributes.tolist()))
    return result


__all__ = ["ImageAestheticsPipeline"]
