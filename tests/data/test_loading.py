from __future__ import annotations

import pytest
import torch

from cskd_hf.data.loading import ImageStream, build_loader
from cskd_hf.data.order import ImageOrder
from cskd_hf.data.sources import FolderSource, ImageCollection
from cskd_hf.data.views import ViewSettings
from cskd_hf.models.image_loading_cskd import ImageLoadError


def stream(folder, batch_size: int, **changes) -> ImageStream:
    images = ImageCollection([FolderSource(folder)])
    targets = {"ratings": torch.arange(len(images)) * 10}
    views = ViewSettings(size=8, scale=(0.5, 1.0))
    return ImageStream(images, ImageOrder(images.sizes, seed=3), batch_size, views, targets=targets, **changes)


def batches(folder, batch_size: int, start: int = 0, stop: int = 6, **options) -> list[dict]:
    return list(build_loader({"rated": stream(folder, batch_size)}, start, stop, **options))


def test_batches_hold_crops_and_their_own_targets(photographs):
    (batch, *_) = batches(photographs, 4)
    assert batch["rated"]["crops"].shape == (4, 3, 8, 8) and batch["rated"]["crops"].dtype == torch.uint8
    assert torch.equal(batch["rated"]["ratings"], batch["rated"]["index"] * 10)
    assert batch["rated"]["errors"] == []


def test_processes_share_the_batches_of_one(photographs):
    whole = batches(photographs, 6)
    halves = [batches(photographs, 3, rank=rank, world_size=2) for rank in (0, 1)]
    for one, first, second in zip(whole, *halves):
        for key in ("crops", "index", "view"):
            assert torch.equal(one["rated"][key], torch.cat([first["rated"][key], second["rated"][key]]))


def test_a_loader_started_later_goes_on_where_the_other_was(photographs):
    whole, rest = batches(photographs, 16), batches(photographs, 16, start=2)
    assert len(rest) == 4
    for one, other in zip(whole[2:], rest):
        assert torch.equal(one["rated"]["crops"], other["rated"]["crops"])
    assert whole[5]["rated"]["view"].max() == 2  # 96 draws of 40 images


def test_starting_a_loader_does_not_move_the_random_state(photographs):
    state = torch.get_rng_state()
    batches(photographs, 4, stop=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_give_the_same_batches(photographs):
    for one, other in zip(batches(photographs, 4, stop=3), batches(photographs, 4, stop=3, num_workers=1)):
        assert torch.equal(one["rated"]["crops"], other["rated"]["crops"])


def test_views_repeat_where_their_number_is_given(photographs):
    loader = build_loader({"rated": stream(photographs, 40, n_views=2)}, 0, 4)
    assert [batch["rated"]["view"].unique().tolist() for batch in loader] == [[0], [1], [0], [1]]


def test_unreadable_image_is_replaced_by_the_next_and_reported(tmp_path, photographs):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(open(f"{photographs}/0{number}.png", "rb").read())
    (tmp_path / "1.png").write_bytes(b"\x89PNG but no more")
    sample = stream(tmp_path, 2).sample(1, view=0)
    assert sample["index"] == 2 and sample["ratings"] == 20
    assert [error[:2] for error in sample["errors"]] == [(str(tmp_path), "1.png")]


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ImageLoadError, match="a.png"):
        stream(tmp_path, 2).sample(0, view=0)
