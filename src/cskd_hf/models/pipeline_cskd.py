"""The "image-aesthetics" pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Pipeline
from transformers.utils import logging

from .calibration_cskd import calibrated_score, percentile
from .image_loading_cskd import ImageLoadError, load_image
from .image_preparation_cskd import prepared_pixels, resize_side
from .image_shortcut_cskd import Shortcut
from .image_sources_cskd import describe_source
from .pipeline_inputs_cskd import PreparedItems, PreparedStream, Results, grouped, many_or_one

logger = logging.get_logger(__name__)

ON_ERROR = ("raise", "return")
_READING = ("allow_truncated", "max_pixels", "on_error", "reduced_decoding", "timeout")
_OPTIONS = sorted((*_READING, "batch_size", "num_workers", "top_attributes"))


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
        self._known_shortcut: tuple[Any, Shortcut | None] = (None, None)
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

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Score one image or many. Every keyword can also be given to `pipeline(...)`, for all calls.

        Args:
            inputs: a path, URL, bytes, PIL image, array or tensor (see `load_image`); or a list or tuple of these; or, to be
                walked through lazily, a generator or other iterator, a torch dataset, a `KeyDataset`, a `datasets` dataset
                with a column of images (`image`, or the only one there is) or such a column of it.
            batch_size: images a forward, of a list or what is walked through; it changes no score beyond rounding.
            num_workers: processes that read and prepare images, of the same; an iterator has one at most.
            on_error: "raise" an image that cannot be read, in its turn; or "return" for it, in its place,
                `{"error": reason, "source": name}`.
            top_attributes: give only so many attributes, those that lie highest on their own scales, the highest first.
            reduced_decoding: decode a large JPEG at 1/2, 1/4 or 1/8 scale, never below twice what the image processor
                resizes to: faster, and changes a score a little.
            allow_truncated: score what can be decoded of a file that breaks off.
            max_pixels, timeout: as in `load_image`.

        Returns:
            For each image `score` (mean of the predicted histogram) and `score_std` on the scale, `scale` (lowest and
            highest possible score), `distribution` (probability by bin value) and `provenance`; of a model with
            attributes also `attributes`, the value of each by name; of one with a prompt bank also `prompt_attributes`, how
            far the image leans to the first prompt of each pair, 0 to 1; of a calibrated one also `percentile`, the share in
            percent of its reference set that scores lower, and `calibrated_score`, the rating that images of such a
            score got, where that was fitted. A dict for one image, a list for a list, an iterator for what is lazy.

        Raises:
            ImageLoadError: an image cannot be read; the message names it.
            TypeError, ValueError: an unknown keyword, or a value that is not allowed.
        """
        inputs = many_or_one(inputs)
        if isinstance(inputs, list) and not inputs:  # transformers looks at the first
            return []
        return super().__call__(inputs, **kwargs)

    def score_many(self, images: Iterable[Any], load: Callable[[Any], Any] | None = None) -> list[dict[str, Any]]:
        """Score images in one forward for each shape; an unreadable one does not cost the others their scores.

        Args:
            images: what `load_image` takes. Of each only the prepared pixels are kept until all are read.
            load: makes that of whatever `images` holds, e.g. within limits of its own; raises `ImageLoadError`.

        Returns:
            For each image, in order, what the call returns for it, or `{"error": reason}`.
        """
        prepare = partial(self.preprocess, **{**self._preprocess_params, "on_error": "return"})
        prepared = []
        for image in images:
            try:
                prepared.append(prepare(load(image) if load else image))
            except ImageLoadError as error:
                prepared.append({"error": error.reason})
        results = self._score(grouped(prepared), self._forward_params, self._postprocess_params)
        return [{"error": result["error"]} if "error" in result else result for result in results]

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        unknown = sorted(kwargs.keys() - set(_OPTIONS))
        if unknown:
            raise TypeError(f"unknown arguments {unknown}; allowed: {', '.join(_OPTIONS)}.")
        if kwargs.get("on_error", "raise") not in ON_ERROR:
            raise ValueError(f"on_error={kwargs['on_error']!r}; allowed: {', '.join(map(repr, ON_ERROR))}.")
        for name in ("allow_truncated", "reduced_decoding"):
            if not isinstance(kwargs.get(name, False), bool):
                raise ValueError(f"{name}={kwargs[name]!r}; allowed: True or False.")
        top = kwargs.get("top_attributes")
        if top is not None:
            if isinstance(top, bool) or not isinstance(top, int) or top < 1:
                raise ValueError(f"top_attributes={top!r}; allowed: an integer of at least 1, or None for all.")
            if not (getattr(self.model.config, "attributes", None) or getattr(self.model.config, "prompt_bank", None)):
                raise ValueError(f"top_attributes={top}, but this model has no attributes.")
        reading = {name: kwargs[name] for name in _READING if name in kwargs}
        return reading, {}, {"top_attributes": top} if "top_attributes" in kwargs else {}

    def preprocess(
        self, image: Any, *, on_error: str = "raise", reduced_decoding: bool = False, **reading: Any
    ) -> Mapping[str, Any]:
        """Read and prepare one image.

        Args:
            image: what `load_image` takes.
            on_error, reduced_decoding, reading: keywords of the call.

        Returns:
            `pixel_values` `(1, 3, height, width)`; or `error` and `source`.
        """
        try:
            return self._prepared(image, resize_side(self.image_processor) if reduced_decoding else None, reading)
        except ImageLoadError as error:
            if on_error == "raise":
                raise
            return {"error": error.reason, "source": error.source}

    def _prepared(self, source: Any, target_size: int | None, reading: dict[str, Any]) -> Mapping[str, torch.Tensor]:
        image = load_image(source, target_size=target_size, **reading)
        pixels = prepared_pixels(image, self.image_processor, self._shortcut(), describe_source(source))
        return {"pixel_values": torch.from_numpy(pixels)[None].to(self.model.dtype)}

    def _shortcut(self) -> Shortcut | None:
        """The shortcut of the image processor as it is now: between two calls it may be set, or be given another size."""
        settings = (id(self.image_processor), repr(self.image_processor.to_dict()))
        if self._known_shortcut[0] != settings:
            self._known_shortcut = settings, Shortcut.of(self.image_processor)
        return self._known_shortcut[1]

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        output = self.model(**model_inputs)
        kept = {"distribution": output.distribution, "score": output.score}
        further = {"attributes": output.attributes, "prompt_attributes": output.prompt_attributes}
        return kept | {name: values for name, values in further.items() if values is not None}

    def _score(self, batch: dict[str, Any], forward_params: dict, postprocess_params: dict) -> list[dict[str, Any]]:
        """Results of what `grouped` gives, in order."""
        results = dict(batch["errors"])
        for places, pixels in batch["groups"]:
            outputs = self.forward({"pixel_values": pixels}, **forward_params)
            for row, place in enumerate(places):
                one = {name: value[row : row + 1] for name, value in outputs.items()}
                results[place] = self.postprocess(one, **postprocess_params)
        return [results[place] for place in sorted(results)]

    def run_single(
        self, inputs: Any, preprocess_params: dict, forward_params: dict, postprocess_params: dict
    ) -> dict[str, Any]:
        prepared = self.preprocess(inputs, **preprocess_params)
        return self._score(grouped([prepared]), forward_params, postprocess_params)[0]

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict,
        forward_params: dict,
        postprocess_params: dict,
    ) -> Results:
        keep_errors = preprocess_params.get("on_error") == "return"
        # An error travels from a worker as a value, which, unlike an exception, arrives whole and in its place.
        prepare = partial(self.preprocess, **{**preprocess_params, "on_error": "return"})
        if isinstance(inputs, Sized):
            items = PreparedItems(inputs, prepare, keep_errors)
        else:
            if num_workers > 1:
                logger.warning(
                    f"num_workers={num_workers}, but each worker would walk through all of an iterator: taking 1."
                )
                num_workers = 1
            items = PreparedStream(inputs, prepare)
        loader = DataLoader(items, batch_size=batch_size, num_workers=num_workers, collate_fn=grouped)
        score = partial(self._score, forward_params=forward_params, postprocess_params=postprocess_params)
        return Results(loader, score, keep_errors)

    def postprocess(self, model_outputs: dict[str, torch.Tensor], top_attributes: int | None = None) -> dict[str, Any]:
        result = score_result(self.model.config, **{name: value[0] for name, value in model_outputs.items()})
        if top_attributes is not None:
            # A prompt may have the name of an attribute, but not its scale.
            for field, scales in (("attributes", self.model.config.attributes), ("prompt_attributes", None)):
                if field in result:
                    result[field] = _highest(result[field], scales or {}, top_attributes)
        return result


def score_result(
    config: Any,
    distribution: torch.Tensor,
    score: torch.Tensor,
    attributes: torch.Tensor | None = None,
    prompt_attributes: torch.Tensor | None = None,
) -> dict[str, Any]:
    """What the pipeline says of an image.

    Args:
        config: with `score_values`, `provenance`, `calibration`, `attributes` and `prompt_bank`, as `CSKDConfig` has them.
        distribution: `(bins,)`.
        score: `()`.
        attributes: `(n_attributes,)`.
        prompt_attributes: `(n_prompt_attributes,)`.
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
    if prompt_attributes is not None:
        names = [pair["name"] for pair in config.prompt_bank["attributes"]]
        result["prompt_attributes"] = dict(zip(names, prompt_attributes.tolist()))
    return result


def _highest(values: dict[str, float], scales: dict[str, Any], number: int) -> dict[str, float]:
    """The `number` values that lie highest on their scales (lowest and highest value by name; else 0 to 1)."""

    def height(name: str) -> float:
        low, high = scales.get(name, (0, 1))
        return (values[name] - low) / (high - low)

    return {name: values[name] for name in sorted(values, key=height, reverse=True)[:number]}


__all__ = ["ImageAestheticsPipeline"]
