"""The `explain` command: the overlay lies on the photograph where the score depends on it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    ConvNextImageProcessor,
    LevitImageProcessor,
    SiglipImageProcessor,
    ViTConfig,
)

from cskd_hf.cli import main
from cskd_hf.models.image_loading_cskd import load_image
from cskd_hf.scoring import explain as explain_module
from cskd_hf.scoring.explain import _cell, emphasised, explain
from cskd_hf.scoring.folder import load_pipeline
from cskd_hf.scoring.preparation import seen_box
from cskd_hf.scoring.saliency import placed_saliency, saliency_map, saliency_overlay
from tiny_scorers import ScoreOfOneCorner, save_scorer

VIT = ViTConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
)
CROPPING = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
SQUASHING = SiglipImageProcessor(size={"height": 32, "width": 32})
LARGER_CROP = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 48, "width": 48})


@pytest.fixture(scope="module", params=["resnet", "vit"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp(request.param)
    return save_scorer(folder, backbone=VIT if request.param == "vit" else None, attributes={"color": [1, 5]})


def save_rotated(path: Path) -> None:
    """A file whose pixels lie on their side: upright it is 160 wide and 80 high."""
    upright = Image.effect_noise((160, 80), 80).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    assert load_image(path).size == (160, 80)


def warmth(overlay: Image.Image) -> np.ndarray:
    """How orange each pixel is: red over blue."""
    levels = np.asarray(overlay).astype(float)
    return levels[..., 0] - levels[..., 2]


@pytest.mark.parametrize(
    ("processor", "columns"), [(SQUASHING, slice(0, 80)), (CROPPING, slice(40, 80))], ids=["squashed", "cropped"]
)
def test_the_overlay_lies_on_the_upright_photograph(
    model: str, processor, columns: slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a model that looks at the upper left quarter of its input alone."""
    save_rotated(tmp_path / "side.jpg")
    rate = load_pipeline(model, "cpu")
    rate.image_processor = processor
    monkeypatch.setattr(
        explain_module, "saliency_map", lambda model, pixels, samples: saliency_map(ScoreOfOneCorner(model), pixels)
    )
    result, overlay = explain(rate, load_image(tmp_path / "side.jpg"))
    assert overlay.size == (160, 80)
    found = warmth(overlay)
    inside = np.zeros(found.shape, dtype=bool)
    inside[:40, columns] = True
    assert found[inside].sum() > 0.8 * found.sum() and found[inside].mean() > 20
    grid = np.array(result["saliency"])
    assert grid.shape == (16, 16) and grid[:8, :8].sum() > 0.9 * grid.sum()


@pytest.mark.parametrize("processor", [SQUASHING, CROPPING, LARGER_CROP], ids=["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(200, 100), (90, 210), (64, 64)])
def test_what_the_model_sees(processor, size: tuple[int, int]):
    """A white dot is found in the processed pixels where the box says."""
    for where in ((0.5, 0.5), (0.4, 0.55)):
        x, y = round(where[0] * size[0]), round(where[1] * size[1])
        picture = Image.new("RGB", size)
        picture.paste((255, 255, 255), (x - 3, y - 3, x + 3, y + 3))
        pixels = processor(images=picture, return_tensors="np")["pixel_values"][0].mean(0)
        weights = pixels - pixels.min()
        rows, columns = np.indices(weights.shape) + 0.5
        seen_x = (weights * columns).sum() / weights.sum() / weights.shape[1]
        seen_y = (weights * rows).sum() / weights.sum() / weights.shape[0]
        left, top, right, bottom = seen_box(processor, size)
        assert left + seen_x * (right - left) == pytest.approx(x / size[0], abs=0.03)
        assert top + seen_y * (bottom - top) == pytest.approx(y / size[1], abs=0.03)


def test_an_unknown_processor_has_no_box():
    assert seen_box(SimpleNamespace(do_resize=True, size={"longest_edge": 9}), (9, 9)) is None
    assert seen_box(SimpleNamespace(do_resize=True, size={"shortest_edge": 9}, do_pad=True), (9, 9)) is None
    # They crop, or resize to more than they say, within their own way of resizing.
    assert seen_box(ConvNextImageProcessor(size={"shortest_edge": 32}), (90, 60)) is None
    assert seen_box(LevitImageProcessor(), (90, 60)) is None


def test_what_is_not_seen_is_dark():
    placed = placed_saliency(torch.zeros(4, 4), (40, 20), (0.25, 0.0, 0.75, 1.0))
    assert placed.isnan().sum() == 20 * 20 and not placed[:, 10:30].isnan().any()
    overlay = saliency_overlay(Image.new("RGB", (40, 20), (100, 100, 100)), emphasised(placed))
    assert overlay.getpixel((20, 10)) == (100, 100, 100) and overlay.getpixel((0, 0)) == (40, 40, 40)
    assert emphasised(torch.tensor([[0.2, 0.4, 1.0]])).tolist() == [[0, 0, 1]]


def test_the_command(model: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    save_rotated(tmp_path / "side.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    output = tmp_path / "why"
    arguments = ["explain", "--model", model, str(tmp_path / "side.jpg"), str(tmp_path / "bad.jpg")]
    assert main([*arguments, "--output", str(output), "--device", "cpu", "--samples", "2", "--quiet"]) == 3
    assert "bad.jpg" in capsys.readouterr().err
    written = json.loads((output / "explanation.json").read_text())["images"]
    assert written[1].keys() == {"path", "error"} and written[0]["seen"] == [0, 0, 1, 1]
    expected = load_pipeline(model, "cpu")(str(tmp_path / "side.jpg"))
    assert written[0]["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert Image.open(output / written[0]["overlay"]).size == (160, 80)
    page = (output / "explanation.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and page.count("data:image/jpeg") == 2
    assert f"{expected['attributes']['color']:.3g}" in page and "color" in page
    assert len(page.split('class="bar"')) == 1 + 5 + 1


def test_its_own_overlays_are_no_photographs(model: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    save_rotated(tmp_path / "side.jpg")
    arguments = ["explain", "--model", model, str(tmp_path), "--output", str(tmp_path / "why"), "--samples", "1"]
    for _ in range(2):
        assert main([*arguments, "--device", "cpu", "--quiet"]) == 0
        assert capsys.readouterr().out.startswith("1 explained")


def test_a_prompt_with_the_name_of_an_attribute_has_its_own_scale():
    result = {"attributes": {"color": 4.0, "light": 2.0}, "prompt_attributes": {"color": 0.5, "sharp": 0.25}}
    result |= {"score": 3.0, "score_std": 1.0, "scale": [1, 5], "distribution": {"1": 1.0}, "seen": None}
    picture = Image.new("RGB", (8, 8))
    cell = _cell("a.jpg", result, picture, picture, {"color": (1, 5), "light": (1, 5)})
    assert cell["attributes"] == {
        "color": ("4", 75), "light": ("2", 25), "color (prompt)": ("0.5", 50), "sharp": ("0.25", 25)
    }  # fmt: skip


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"")
    save_rotated(tmp_path / "side.jpg")
    assert main(["explain", "--model", str(graph), str(tmp_path / "side.jpg"), "--output", str(tmp_path / "why")]) == 2
    assert "gradients" in capsys.readouterr().err
    assert main(["explain", "--model", "x", str(tmp_path / "side.jpg"), "--output", str(graph)]) == 2
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "side.jpg"), "--output", str(tmp_path / "why"), "--device", "abacus"]) == 2
    assert "--device abacus cannot be used" in capsys.readouterr().err
    assert main(["explain", "--model", "x", str(tmp_path / "side.jpg"), "--output", "y", "--samples", "0"]) == 2
