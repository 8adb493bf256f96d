"""The shortcut of an image processor gives what the processor gives, to the last bit."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, ConvNextImageProcessor, EfficientNetImageProcessor, SiglipImageProcessor

from cskd_hf.models.image_loading_cskd import load_image
from cskd_hf.models.image_preparation_cskd import within_reach
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
