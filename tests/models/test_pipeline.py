"""The "image-aesthetics" pipeline: one score whatever the door, and refusals that say what is wrong."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ResNetConfig,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from cskd_hf import (
    CSKDConfig,
    CSKDForFeatureAlignment,
    CSKDForImageAesthetics,
    ImageAestheticsPipeline,
    ImageLoadError,
    load_image,
)
from cskd_hf.data.views import Preprocessing

SCORES = (1.0, 1.5, 2.0, 2.5, 4.0)


def save(model: torch.nn.Module, folder: Path) -> str:
    model.save_pretrained(folder)
    Preprocessing(size=(32, 32)).to_image_processor().save_pretrained(folder)
    return str(folder)


def config() -> CSKDConfig:
    torch.manual_seed(0)
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic")
    reference = {"name": "clip", "dim": 6}
    return CSKDConfig(
        backbone_config=backbone, score_values=SCORES, reference_encoders=[reference], provenance={"recipe": "test"}
    )


def scorer() -> CSKDForImageAesthetics:
    model = CSKDForImageAesthetics(config())
    model.classifier.weight.data *= 20  # scores of unlike images should differ clearly
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(scorer(), tmp_path_factory.mktemp("scorer"))


@pytest.fixture(scope="module")
def rate(checkpoint: str) -> ImageAestheticsPipeline:
    return pipeline("image-aesthetics", model=checkpoint)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    colours = rng.uniform(0, 255, (5, 3))
    return [
        Image.fromarray(rng.normal(colour, 20, (40 + i, 50, 3)).clip(0, 255).astype(np.uint8))
        for i, colour in enumerate(colours)
    ]


def scores(results: list[dict]) -> list[float]:
    return [result["score"] for result in results]


def test_another_image_processor_between_two_calls(checkpoint: str, images: list[Image.Image]):
    """What was found out of the image processor to be fast holds for that one only."""
    rate = pipeline("image-aesthetics", model=checkpoint)
    first = rate(images[0])["score"]
    for change in (
        lambda processor: setattr(processor, "size", {"height": 64, "width": 48}),
        lambda processor: setattr(processor, "image_mean", [0.1, 0.2, 0.3]),
    ):
        change(rate.image_processor)
        pixels = rate.image_processor(images=images[0], return_tensors="pt")["pixel_values"]
        assert torch.equal(rate.preprocess(images[0])["pixel_values"], pixels)
    changed = rate(images[0])["score"]
    assert changed != first
    rate.image_processor = AutoImageProcessor.from_pretrained(checkpoint)
    assert rate(images[0])["score"] == first


def test_result(rate: ImageAestheticsPipeline, images: list[Image.Image]):
    assert isinstance(rate, ImageAestheticsPipeline)
    result = rate(images[0])
    shares = np.array(list(result["distribution"].values()))
    mean = shares @ np.array(SCORES)
    assert list(result["distribution"]) == ["1", "1.5", "2", "2.5", "4"]
    assert shares.sum() == pytest.approx(1)
    assert result["score"] == pytest.approx(mean, abs=1e-5)
    assert result["score_std"] == pytest.approx(np.sqrt(shares @ (np.array(SCORES) - mean) ** 2), abs=1e-5)
    assert result["scale"] == [1.0, 4.0]
    assert result["provenance"] == {"recipe": "test"}


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForImageClassification, CSKDForImageAesthetics])
def test_every_class_gives_the_same_score(
    auto_class: type, checkpoint: str, rate: ImageAestheticsPipeline, images: list[Image.Image]
):
    model = auto_class.from_pretrained(checkpoint).eval()
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        output = model(**processor(images=[load_image(image) for image in images], return_tensors="pt"))
    assert np.ptp(output.score.numpy()) > 0.05
    assert output.score.tolist() == pytest.approx(scores(rate(images)), abs=1e-5)


def test_every_form_of_an_image_gives_the_same_score(
    rate: ImageAestheticsPipeline, images: list[Image.Image], tmp_path: Path
):
    path = tmp_path / "image.png"
    images[0].save(path)
    expected = rate(images[0])
    data = path.read_bytes()
    for form in (str(path), path, data, io.BytesIO(data), np.asarray(images[0]), {"bytes": data, "path": None}):
        assert rate(form) == expected
    assert rate([str(path), data, np.asarray(images[0])]) == [expected] * 3


def test_orientation_is_applied(rate: ImageAestheticsPipeline, images: list[Image.Image], tmp_path: Path):
    half = Image.new("RGB", (48, 48), "white")
    half.paste((0, 0, 160), (0, 0, 48, 24))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter by the camera
    half.save(tmp_path / "turned.png", exif=exif)
    assert rate(tmp_path / "turned.png") == rate(half.transpose(Image.Transpose.ROTATE_270)) != rate(half)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_lists_and_generators(rate: ImageAestheticsPipeline, images: list[Image.Image], batch_size: int):
    expected = [rate(image)["score"] for image in images]
    assert scores(rate(images, batch_size=batch_size)) == pytest.approx(expected, abs=1e-5)
    generated = rate((image for image in images), batch_size=batch_size)
    assert scores(list(generated)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3), (50, 1)])
def test_slim_images_are_not_taken_for_channels(rate: ImageAestheticsPipeline, size: tuple[int, int]):
    """A grey picture has the same score whatever its shape, for all of it is resized to one square."""
    assert rate(Image.new("RGB", size, (90, 90, 90)))["score"] == pytest.approx(
        rate(Image.new("RGB", (64, 64), (90, 90, 90)))["score"], abs=1e-5
    )


def test_unknown_argument_is_refused(rate: ImageAestheticsPipeline, images: list[Image.Image]):
    with pytest.raises(TypeError, match=r"\['top_k'\]; allowed: allow_truncated, batch_size, "):
        rate(images[0], top_k=3)


def test_unreadable_image_is_named(rate: ImageAestheticsPipeline, tmp_path: Path):
    with pytest.raises(ImageLoadError, match="nowhere.png"):
        rate(tmp_path / "nowhere.png")


def test_phase_1_checkpoint_is_refused(tmp_path: Path):
    folder = save(CSKDForFeatureAlignment(config()), tmp_path)
    with pytest.raises(
        ValueError, match="phase-1 checkpoint .*CSKDForFeatureAlignment.* train a teacher or a student"
    ):
        pipeline("image-aesthetics", model=folder)


def test_foreign_checkpoint_is_refused(tmp_path: Path):
    vit = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16
    )
    folder = save(ViTForImageClassification(vit), tmp_path)
    with pytest.raises(ValueError, match="ViTForImageClassification has no score_values"):
        pipeline("image-aesthetics", model=folder)


def test_bfloat16_checkpoint(rate: ImageAestheticsPipeline, images: list[Image.Image], tmp_path: Path):
    half = pipeline("image-aesthetics", model=save(scorer().to(torch.bfloat16), tmp_path))
    assert half.model.dtype == torch.bfloat16
    results = half(images, batch_size=2)
    assert scores(results) == pytest.approx(scores(rate(images)), abs=0.05)
    for result in results:  # the softmax and the mean are taken in float32, so the rounding stays in the features
        assert sum(result["distribution"].values()) == pytest.approx(1, abs=1e-5)
        mean = sum(float(value) * share for value, share in result["distribution"].items())
        assert result["score"] == pytest.approx(mean, abs=1e-5)


def test_attributes_by_name(images: list[Image.Image], tmp_path: Path):
    torch.manual_seed(0)
    model = CSKDForImageAesthetics(
        CSKDConfig(**{**config().to_diff_dict(), "attributes": {"light": [0, 1], "color": [1, 5]}})
    )
    model.attribute_head.bias.data.copy_(torch.tensor([100.0, -100.0]))
    rate = pipeline("image-aesthetics", model=save(model, tmp_path))
    assert rate(images[0])["attributes"] == {"color": 5.0, "light": pytest.approx(0)}
    assert [result["attributes"]["color"] for result in rate(images, batch_size=2)] == [5.0] * len(images)
    assert "attributes" not in pipeline("image-aesthetics", model=save(scorer(), tmp_path / "plain"))(images[0])
