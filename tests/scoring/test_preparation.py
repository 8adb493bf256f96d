"""The shortcut of an image processor gives what the processor gives, to the last bit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, ConvNextImageProcessor, EfficientNetImageProcessor, SiglipImageProcessor

from cskd_hf.models.image_loading_cskd import ImageLoadError, load_image
from cskd_hf.models.image_preparation_cskd import within_reach
from cskd_hf.scoring import preparation as preparation_module
from cskd_hf.scoring.preparation import Preparation, Shortcut

SIZES = [(1, 1), (1, 300), (33, 32), (257, 190), (500, 333)]


@pytest.mark.parametrize(
    "processor",
    [
        SiglipImageProcessor(size={"height": 32, "width": 48}, resample=2, image_mean=[0.4, 0.5, 0.6]),
        CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 31, "width": 24}),
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 40, "width": 40}),  # too large a crop
        CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False, do_normalize=False),
        EfficientNetImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False),
        ConvNextImageProcessor(size={"shortest_edge": 32}),  # its own way to resize
    ],
    ids=["squash", "crop", "large-crop", "ratio", "std-twice", "own-resize"],
)
def test_same_as_the_processor(processor):
    preparation = Preparation(processor)
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        seen = within_reach(image, processor, "image")  # as the pipeline does
        expected = processor(images=seen, return_tensors="np")["pixel_values"][0]
        found = preparation.prepared(image)
        assert found.dtype == np.float32 and np.array_equal(found, expected)


@pytest.mark.parametrize(
    "processor",
    [SiglipImageProcessor(size={"height": 224, "width": 224}), CLIPImageProcessor()],
    ids=["squash", "crop"],
)
def test_a_large_photograph(processor):
    """The trials are of few and small pictures: nothing may be resized in two steps, nor the crop lie a pixel aside."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (1300, 1901, 3), dtype=np.uint8))  # its long side becomes 327.6
    preparation = Preparation(processor)
    assert preparation.shortcut is not None
    expected = processor(images=image, return_tensors="np")["pixel_values"][0]
    assert np.array_equal(preparation.prepared(image), expected)


def test_a_picture_too_slim():
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False)
    with pytest.raises(ImageLoadError, match="1x65000 pixels are too slim for this model"):
        Preparation(processor).prepared(Image.new("RGB", (1, 65_000)))


def test_what_a_processor_cannot_take_is_a_named_error():
    def refuse(*args, **options):
        raise ZeroDivisionError("of height")

    preparation = Preparation(ConvNextImageProcessor(size={"shortest_edge": 32}))
    preparation.processor = refuse
    with pytest.raises(ImageLoadError, match="cannot prepare it .ZeroDivisionError: of height"):
        preparation.prepared(Image.new("RGB", (40, 30)))


def test_settings_tell_what_pixels_depend_on():
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    made = [
        Preparation(processor),
        Preparation(processor, reduced_decoding=True),
        Preparation(processor, allow_truncated=True),
        Preparation(SiglipImageProcessor(size={"height": 32, "width": 48})),
        Preparation(type("OtherProcessor", (type(processor),), {})(size={"height": 32, "width": 32})),
    ]
    told = [json.dumps(one.settings, sort_keys=True) for one in made]
    assert len(set(told)) == len(told)
    assert told[0] == json.dumps(Preparation(processor).settings, sort_keys=True)
    # Of the two classes behind one name, with and without torchvision.
    assert made[0].settings["preprocessing"]["image_processor_type"] == type(processor).__name__


def test_a_file_that_breaks_off(tmp_path: Path):
    file = tmp_path / "1.jpg"
    Image.effect_noise((90, 80), 50).convert("RGB").save(file)
    file.write_bytes(file.read_bytes()[:-700])
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    with pytest.raises(ImageLoadError, match="truncated"):
        Preparation(processor)(file)
    expected = Preparation(processor).prepared(load_image(file, allow_truncated=True))
    assert np.array_equal(Preparation(processor, allow_truncated=True)(file), expected)


@pytest.mark.parametrize("side", [64, 120, 128, 512, 1024, 2304])
def test_the_pixels_that_decoding_will_hold(side: int, tmp_path: Path):
    image = Image.new("RGB", (side, side), "teal")
    image.save(tmp_path / "1.jpg")
    image.save(tmp_path / "1.mpo", save_all=True, append_images=[image])
    reduced = Preparation(SiglipImageProcessor(size={"height": 32, "width": 32}), reduced_decoding=True)
    width, height = load_image(tmp_path / "1.jpg", target_size=32).size
    for name in ("1.jpg", "1.mpo"):
        assert reduced.decoded_pixels(tmp_path / name) == width * height
    assert load_image(tmp_path / "1.mpo", target_size=32).size == (width, height)


def test_no_download_to_count_pixels(monkeypatch):
    monkeypatch.setattr(preparation_module, "read_header", lambda source: ("JPEG", 800, 600))
    reduced = Preparation(SiglipImageProcessor(size={"height": 32, "width": 32}))
    assert reduced.decoded_pixels("HTTPS://example.org/1.jpg") == 0
    assert reduced.decoded_pixels("example.org/1.jpg") == 800 * 600


def test_what_has_a_shortcut():
    assert Shortcut.of(SiglipImageProcessor()) and Shortcut.of(CLIPImageProcessor())
    assert Shortcut.of(ConvNextImageProcessor()) is None
    flipping = SiglipImageProcessor(size={"height": 32, "width": 32})
    plain = type(flipping).__call__
    flipping_class = type("Flipping", (type(flipping),), {})
    flipping_class.__call__ = lambda self, images, **options: plain(
        self, Image.fromarray(np.ascontiguousarray(np.asarray(images)[..., ::-1])), **options
    )
    flipping.__class__ = flipping_class
    assert Shortcut.of(flipping) is None


def test_pickled(tmp_path: Path):
    Image.effect_noise((90, 80), 50).convert("RGB").save(tmp_path / "1.jpg")
    preparation = Preparation(SiglipImageProcessor(size={"height": 32, "width": 32}), reduced_decoding=True)
    again = pickle.loads(pickle.dumps(preparation))
    assert again.settings == preparation.settings
    assert np.array_equal(again(tmp_path / "1.jpg"), preparation(tmp_path / "1.jpg"))


def test_reduced_decoding_is_asked_for(tmp_path: Path):
    image = Image.effect_noise((800, 600), 80).convert("RGB")
    image.save(tmp_path / "1.jpg")
    image.save(tmp_path / "1.png")
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    exact, reduced = Preparation(processor), Preparation(processor, reduced_decoding=True)
    assert np.array_equal(reduced(tmp_path / "1.jpg"), exact.prepared(load_image(tmp_path / "1.jpg", target_size=32)))
    assert not np.array_equal(reduced(tmp_path / "1.jpg"), exact(tmp_path / "1.jpg"))
    assert np.array_equal(reduced(tmp_path / "1.png"), exact(tmp_path / "1.png"))
    assert exact.decoded_pixels(tmp_path / "1.jpg") == 800 * 600
    assert reduced.decoded_pixels(tmp_path / "1.jpg") == 100 * 75
    assert reduced.decoded_pixels(tmp_path / "1.png") == 800 * 600
    assert reduced.decoded_pixels(tmp_path / "nowhere.png") == 0
