"""The image processor of a checkpoint as an ONNX graph: resize, crop and normalisation of uint8 pictures of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..models import image_shortcut_cskd
from ..models.image_shortcut_cskd import all_levels, crop_of, size_of

OPSET = 20
IMAGE, PIXELS = "image", "pixel_values"
_MODES = {0: "nearest", 2: "linear", 3: "cubic"}
_LEVELS = 256
_SHAPES = ((61, 140), (333, 257), (512, 512), (90, 31))
"""Height and width of the pictures that a plan is tried on: smaller and larger than most models' input, both ways."""


class UnfitProcessor(ValueError):
    """An image processor that cannot be put into a graph; the message says why."""


@dataclass(frozen=True)
class ImagePlan:
    """What an image processor does, in the terms of a graph.

    Args:
        size: height and width that it resizes to, or the short side; None where it does not resize.
        crop: height and width of the middle that it keeps; None where it keeps all.
        mode: of ONNX's Resize: "linear" or "cubic", reduced with antialiasing.
        factor, offset: of each output channel: value = factor * level + offset, for levels of 0 to 255.
        flip: whether the channels come out as blue, green, red.
    """

    size: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    mode: str
    factor: tuple[float, ...]
    offset: tuple[float, ...]
    flip: bool

    @property
    def output_size(self) -> tuple[int, int] | None:
        """Height and width of what the model gets; None where they are not the same for all images."""
        return self.crop or (self.size if isinstance(self.size, tuple) else None)


def plan_of(processor: Any) -> ImagePlan:
    """The plan of a transformers image processor; [`check_plan`] tries whether its graph does the same.

    Raises:
        UnfitProcessor: it does something that the graph cannot.
    """
    kind = type(processor).__name__
    size, crop = size_of(processor), crop_of(processor)
    if size and size.keys() not in ({"height", "width"}, {"shortest_edge"}):
        raise UnfitProcessor(f"{kind} resizes to {size}; only a height and width, or a shortest_edge, can be")
    target = _target(size)
    side = size.get("shortest_edge")
    if side and kind.startswith("ConvNext"):  # below 384, it enlarges the short side and cuts it off again
        crops = side < 384
        target = int(side / processor.crop_pct) if crops else (side, side)
        crop = {"height": side, "width": side} if crops else crop
    elif side and kind.startswith("Levit"):
        target = int(256 / 224 * side)
    cut = (crop["height"], crop["width"]) if crop.keys() == {"height", "width"} else None
    if crop and cut is None:
        raise UnfitProcessor(f"{kind} crops to {crop}; only to a height and width can be")
    smallest = target if isinstance(target, tuple) else (target or 0,) * 2
    if cut and any(kept > whole for kept, whole in zip(cut, smallest)):
        raise UnfitProcessor(f"{kind} crops to {cut}, more than the {smallest} that it resizes to: it pads images")
    resample = int(getattr(processor, "resample", None) or 0)
    if target and resample not in (2, 3):
        raise UnfitProcessor(
            f"{kind} resizes with filter {Image.Resampling(resample).name}; only BILINEAR and BICUBIC can be"
        )
    if getattr(processor, "do_pad", False):
        raise UnfitProcessor(f"{kind} pads images (do_pad)")
    factor, offset = _affine(processor)
    flip = bool(getattr(processor, "do_flip_channel_order", False))
    return ImagePlan(target, cut, _MODES.get(resample, "linear"), factor, offset, flip)


def _target(size: dict[str, int]) -> tuple[int, int] | int | None:
    if not size:
        return None
    return size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])


def _affine(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Factor and offset of each channel, from what the processor makes of a picture with all levels."""
    table = processed(processor, all_levels(), do_resize=False, do_center_crop=False)
    values = table.reshape(3, -1).astype(np.float64)
    if values.shape != (3, _LEVELS):
        raise UnfitProcessor(f"{type(processor).__name__} cannot be told to leave out its resizing")
    offset, factor = values[:, 0], (values[:, -1] - values[:, 0]) / (_LEVELS - 1)
    if np.abs(factor[:, None] * np.arange(_LEVELS) + offset[:, None] - values).max() > 1e-4:
        raise UnfitProcessor(
            f"{type(processor).__name__} changes levels in another way than by a factor and an offset"
        )
    return tuple(factor.tolist()), tuple(offset.tolist())


def processed(processor: Any, image: Image.Image, **options: Any) -> np.ndarray:
    """float32 `(3, height, width)` of an RGB picture.

    Raises:
        UnfitProcessor: the processor returns something else.
    """
    pixels = image_shortcut_cskd.processed(processor, image, **options)
    if pixels.ndim != 3 or len(pixels) != 3:
        raise UnfitProcessor(f"{type(processor).__name__} makes {pixels.shape} of an image, not (3, height, width)")
    return pixels


def image_graph(plan: ImagePlan) -> Any:
    """The graph of a plan: `image`, uint8 `(batch, 3, height, width)`, to `pixel_values`, float32 `(batch, 3, ., .)`.

    Whole numbers are resized, with `exclude_outside`: onnxruntime then does what Pillow does, both passes rounded. Channels
    come first already: onnxruntime 1.32 moves a Transpose over a Resize with `axes` and then takes its sizes wrongly.

    Returns:
        `onnx.ModelProto`.
    """
    from onnx import TensorProto, helper, numpy_helper

    constants: dict[str, np.ndarray] = {
        "factor": np.float32(plan.factor).reshape(3, 1, 1),
        "offset": np.float32(plan.offset).reshape(3, 1, 1),
    }
    nodes, latest = [], IMAGE
    if plan.size is not None:
        nodes += _resize_nodes(plan, constants, latest)
        latest = "resized"
    if plan.crop is not None:
        nodes += _crop_nodes(plan.crop, constants, latest)
        latest = "cropped"
    if plan.flip:
        constants["reversed"] = np.int64([2, 1, 0])
        nodes.append(helper.make_node("Gather", [latest, "reversed"], ["flipped"], axis=1))
        latest = "flipped"
    nodes += [
        helper.make_node("Cast", [latest], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["levels", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], [PIXELS]),
    ]
    height, width = plan.output_size or ("prepared_height", "prepared_width")
    graph = helper.make_graph(
        nodes,
        "image_processor",
        [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["batch", 3, height, width])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _resize_nodes(plan: ImagePlan, constants: dict[str, np.ndarray], source: str) -> list[Any]:
    from onnx import helper

    nodes = []
    if isinstance(plan.size, tuple):
        constants["sizes"] = np.int64(plan.size)
    else:
        # The short side becomes the number, the long side as in transformers: int(number * long / short).
        constants["side"] = np.int64([plan.size])
        nodes = [
            helper.make_node("Shape", [source], ["sides"], start=2, end=4),
            helper.make_node("ReduceMin", ["sides"], ["shortest"], keepdims=1),
            helper.make_node("Mul", ["sides", "side"], ["products"]),
            helper.make_node("Div", ["products", "shortest"], ["sizes"]),
        ]
    options: dict[str, Any] = {"mode": plan.mode, "antialias": 1, "exclude_outside": 1, "axes": [2, 3]}
    if plan.mode == "cubic":
        options["cubic_coeff_a"] = -0.5
    return [*nodes, helper.make_node("Resize", [source, "", "", "sizes"], ["resized"], **options)]


def _crop_nodes(crop: tuple[int, int], constants: dict[str, np.ndarray], source: str) -> list[Any]:
    from onnx import helper

    constants |= {"kept": np.int64(crop), "two": np.int64([2]), "axes": np.int64([2, 3])}
    return [
        helper.make_node("Shape", [source], ["whole"], start=2, end=4),
        helper.make_node("Sub", ["whole", "kept"], ["spare"]),
        helper.make_node("Div", ["spare", "two"], ["start"]),
        helper.make_node("Add", ["start", "kept"], ["end"]),
        helper.make_node("Slice", [source, "start", "end", "axes"], ["cropped"]),
    ]


def check_plan(plan: ImagePlan, processor: Any) -> float:
    """Try the graph of a plan on pictures of several shapes, upright and wide.

    Returns:
        the largest difference from what the processor makes of them, in levels of 0 to 255.

    Raises:
        UnfitProcessor: it is more than two levels, or on average more than a quarter of one.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(image_graph(plan).SerializeToString(), providers=["CPUExecutionProvider"])
    largest = 0.0
    for image in probe_images():
        expected = processed(processor, image)
        found = session.run(None, {IMAGE: channels_first(image)})[0][0]
        if expected.shape != found.shape:
            raise UnfitProcessor(
                f"{type(processor).__name__} makes {expected.shape} of a picture of {image.size}, the graph of its "
                f"settings {found.shape}"
            )
        levels = np.abs(expected - found) / np.abs(np.reshape(plan.factor, (3, 1, 1)))
        if levels.max() > 2 or levels.mean() > 0.25:
            raise UnfitProcessor(
                f"{type(processor).__name__} gives pixels that differ from those of the graph of its settings by up to "
                f"{levels.max():.3g} of 255 levels ({levels.mean():.2g} on average)"
            )
        largest = max(largest, float(levels.max()))
    return largest


def channels_first(image: Image.Image) -> np.ndarray:
    """uint8 `(1, 3, height, width)` of an RGB picture, as the graph takes it."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))[None]


def probe_images() -> list[Image.Image]:
    """Seeded pictures of several shapes, with coarse areas and fine grain."""
    rng = np.random.default_rng(0)
    images = []
    for number, (height, width) in enumerate(_SHAPES):
        coarse = Image.fromarray(rng.integers(0, _LEVELS, (3 + number, 4, 3), dtype=np.uint8)).resize((width, height))
        grain = rng.normal(0, 24, (height, width, 3))
        images.append(Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)))
    return images
