from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from cskd_hf.data.views import Preprocessing, ViewSettings, cut_view, stack_crops


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def test_a_view_depends_on_its_arguments_alone():
    settings = ViewSettings(size=16, scale=(0.3, 1.0))
    views = {view: cut_view(gradient(), settings, 7, 3, view) for view in range(6)}
    np.random.seed(0)
    for view, pixels in views.items():
        assert np.array_equal(cut_view(gradient(), settings, 7, 3, view), pixels)
    assert len({pixels.tobytes() for pixels in views.values()}) == 6
    assert not np.array_equal(cut_view(gradient(), settings, 8, 3, 0), views[0])


def test_two_views_in_a_row_are_plain_and_mirrored():
    settings = ViewSettings(size=16)
    for index in range(8):
        one, two = (cut_view(gradient(), settings, 0, index, view) for view in (0, 1))
        assert np.array_equal(one, two[:, ::-1])
        assert np.array_equal(cut_view(gradient(), settings, 0, index, 2), one)
    starts = {cut_view(gradient(), settings, 0, index, 0)[0, 0, 0] > 128 for index in range(20)}
    assert starts == {True, False}  # neither orientation always comes first


def test_no_flip_and_whole_image():
    pixels = cut_view(gradient(), ViewSettings(size=16, flip=False), 0, 0, 1)
    assert pixels.shape == (16, 16, 3)
    assert pixels[0, 0, 0] < 20 and pixels[0, -1, 0] > 235


def test_cut_area_is_in_range():
    settings = ViewSettings(size=32, scale=(0.25, 0.5), ratio=(1.0, 1.0), flip=False)
    for view in range(20):
        pixels = cut_view(gradient(200, 200), settings, 0, 0, view).astype(float)
        width = (pixels[0, -1, 0] - pixels[0, 0, 0]) / 255
        assert 0.25 - 0.06 <= width**2 <= 0.5 + 0.06
    assert settings.source_side == 64


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.9, 0.3), (0.5, 1.5)])
def test_scale_out_of_range(scale):
    with pytest.raises(ValueError, match="view scale"):
        ViewSettings(size=8, scale=scale)


def test_preprocessing_agrees_with_the_image_processor():
    image = gradient(48, 48)
    preprocessing = Preprocessing(size=(24, 24), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    processor = preprocessing.to_image_processor()
    expected = processor(images=image, return_tensors="pt")["pixel_values"]
    got = preprocessing(stack_crops([np.asarray(image)]))
    assert (got - expected).abs().max() < 2 / 255 / 0.2  # two grey levels
    assert Preprocessing.from_image_processor(processor) == preprocessing


def test_preprocessing_of_a_cropping_processor():
    processor = CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    assert Preprocessing.from_image_processor(processor).size == (32, 32)


def test_processors_with_habits_of_their_own():
    from transformers import EfficientNetImageProcessor

    processor = EfficientNetImageProcessor(size={"height": 20, "width": 20}, do_center_crop=False)
    image = gradient(20, 20)
    expected = processor(images=image, return_tensors="pt")["pixel_values"]
    got = Preprocessing.from_image_processor(processor)(stack_crops([np.asarray(image)]))
    assert torch.allclose(got, torch.as_tensor(np.asarray(expected), dtype=torch.float32), atol=1e-4)


def test_flipped_channels_of_mobilevit(tmp_path):
    from transformers import AutoImageProcessor, MobileViTImageProcessor

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8))
    processor = MobileViTImageProcessor(size={"height": 20, "width": 20}, do_center_crop=False)
    expected = processor(images=image, return_tensors="pt")["pixel_values"]
    preprocessing = Preprocessing.from_image_processor(processor)
    got = preprocessing(stack_crops([np.asarray(image)]))
    assert torch.allclose(got, expected, atol=1e-6)
    assert torch.allclose(
        got[0, 0], torch.from_numpy(np.asarray(image)[:, :, 2] / 255).float(), atol=1e-6
    )  # blue first
    preprocessing.to_image_processor().save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert Preprocessing.from_image_processor(again) == preprocessing
    assert torch.allclose(again(images=image, return_tensors="pt")["pixel_values"], expected, atol=1e-6)
    with pytest.raises(ValueError, match="no built-in image processor flips the channels and normalises"):
        Preprocessing((20, 20), flip_channels=True).to_image_processor()


def test_processor_of_patches_gives_the_largest_square():
    from transformers import Siglip2ImageProcessor

    processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=20)
    assert Preprocessing.from_image_processor(processor).size == (32, 32)


def test_each_encoder_prepares_the_same_crop_in_its_own_way():
    crops = torch.full((1, 3, 20, 20), 255, dtype=torch.uint8)
    one = Preprocessing((20, 20), mean=(0.5,) * 3, std=(0.5,) * 3)(crops)
    other = Preprocessing((10, 12), mean=(0.0,) * 3, std=(2.0,) * 3, interpolation="bilinear")(crops)
    assert one.shape == (1, 3, 20, 20) and torch.allclose(one, torch.ones(()))
    assert other.shape == (1, 3, 10, 12) and torch.allclose(other, torch.full((), 0.5))


def test_unknown_interpolation():
    with pytest.raises(ValueError, match="allowed: nearest, bilinear, bicubic"):
        Preprocessing((8, 8), interpolation="box")
