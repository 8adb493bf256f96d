"""Tiny models, images and ratings, made on the spot; no test may reach beyond this machine."""

from __future__ import annotations

import csv
import os
import socket
from collections.abc import Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    torch.set_num_threads(1)  # tiny models: threads would only wait for each other


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real photographs and label files, where somebody has them: CSKD_HF_DATA."""
    folder = os.environ.get("CSKD_HF_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CSKD_HF_DATA names no folder with real data")
    return Path(folder)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny ResNet with random weights."""
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic", image_size=32
    )
    ResNetModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def vit_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny ViT: it has no batch norm, so its loss does not depend on how a batch is split."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny CLIP vision tower with random weights, and preprocessing of its own."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    config = CLIPVisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8,
        projection_dim=12,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def draw_photograph(rng: np.random.Generator, brightness: float, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Noise around a brightness in 0..1: something that a tiny encoder can learn to rate."""
    pixels = rng.normal(255 * brightness, 40, (size[1], size[0], 3)).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 40 unrated images of several sizes."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(40):
        draw_photograph(rng, rng.uniform(0.2, 0.8), (40 + i % 5, 36)).save(folder / f"{i:02d}.png")
    return str(folder)


def write_rated_images(folder: Path, splits: Sequence[str], seed: int, name: str = "ratings.csv") -> str:
    """A CSV with histograms over 1..5 of 30 raters, one image a split that is given, and the images: brighter is better."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with open(folder / name, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", *[f"votes_{value}" for value in range(1, 6)]])
        for number, split in enumerate(splits):
            brightness = rng.uniform(0.15, 0.85)
            draw_photograph(rng, brightness).save(folder / f"{number:02d}.png")
            chances = np.exp(-((np.arange(5) - 4 * brightness) ** 2))
            writer.writerow([f"{number:02d}.png", split, *rng.multinomial(30, chances / chances.sum())])
    return str(folder / name)


@pytest.fixture(scope="session")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CSV of 48 images with histograms over 1..5 (36 to train on, 12 for validation): brighter is better."""
    splits = ["validation" if number % 4 == 0 else "train" for number in range(48)]
    return write_rated_images(tmp_path_factory.mktemp("ratings"), splits, seed=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny scorer."""
    from tiny_scorers import save_scorer

    return save_scorer(tmp_path_factory.mktemp("model"))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Seven images at several depths, one broken and one empty file, a text file and a hidden image."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "album"
    for i in range(7):
        path = folder / ("sub/deep" if i % 2 else ".") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = rng.uniform(0, 255, 3)
        pixels = rng.normal(colour, 20, (30 + i, 40, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "3-broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photograph")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no image")
    Image.new("RGB", (9, 9)).save(folder / ".hidden.png")
    return folder
