from __future__ import annotations

import json

import pytest
import torch

from cskd_hf.data.sources import FolderSource, ImageCollection
from cskd_hf.data.teacher_features import FeatureStore, FeatureStoreError, describe
from cskd_hf.data.views import ViewSettings, cut_view, stack_crops

VIEWS = ViewSettings(size=16, scale=(0.5, 1.0))


class Colour:
    """A frozen encoder: the mean colour."""

    def __init__(self, name: str = "encoder-a") -> None:
        self.name = name

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        return crops.float().mean((2, 3))

    def fingerprint(self) -> str:
        return self.name


def build(folder, photographs):
    images = ImageCollection([FolderSource(photographs)])
    description = describe(images, Colour(), views=VIEWS, n_views=3)
    return (
        images,
        description,
        FeatureStore.build(folder, Colour(), images, views=VIEWS, n_views=3, batch_size=7, quiet=True),
    )


def test_stored_features_are_those_of_the_views(tmp_path, photographs):
    images, description, _ = build(tmp_path / "store", photographs)
    store = FeatureStore.open(tmp_path / "store", description)
    assert store.features.shape == (40, 3, 3)
    for index, view in ((0, 0), (17, 2), (39, 1)):
        live = Colour()(stack_crops([cut_view(images.load(index), VIEWS, 0, index, view)]))[0]
        assert torch.equal(store[index, view], live.half().float())
    assert torch.equal(store[5, 4], store[5, 1])  # views repeat


def test_store_of_another_run_is_refused_with_what_differs(tmp_path, photographs):
    images, _, _ = build(tmp_path / "store", photographs)
    with pytest.raises(FeatureStoreError, match="encoder is 'encoder-a' in the store and 'encoder-b' in this run"):
        FeatureStore.open_or_build(tmp_path / "store", Colour("encoder-b"), images, views=VIEWS, n_views=3)


def test_damaged_store_is_refused(tmp_path, photographs):
    _, description, _ = build(tmp_path / "store", photographs)
    file = tmp_path / "store" / "features.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(FeatureStoreError, match="checksum"):
        FeatureStore.open(tmp_path / "store", description)


def test_a_build_that_fails_leaves_nothing(tmp_path, photographs):
    images = ImageCollection([FolderSource(photographs)])

    class Failing(Colour):
        def __call__(self, crops: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        FeatureStore.build(tmp_path / "store", Failing(), images, views=VIEWS, n_views=2, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_images_are_listed(tmp_path, photographs):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(open(f"{photographs}/00.png", "rb").read())
    (folder / "b.png").write_text("no image")
    build(tmp_path / "store", folder)
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert [key for key, _ in manifest["unreadable"]] == ["b.png"]
