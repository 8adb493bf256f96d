"""What the pipeline takes as many images: lists, streams and datasets, errors in their places, nothing read ahead."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from transformers import CLIPImageProcessor, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from conftest import draw_photograph
from cskd_hf import ImageAestheticsPipeline, ImageLoadError, load_image
from cskd_hf.models import pipeline_cskd
from cskd_hf.models.image_preparation_cskd import resize_side, within_reach
from image_files import encode, gradient
from tiny_scorers import save_scorer

BROKEN = b"broken file"


@pytest.fixture(scope="module")
def rate(tmp_path_factory: pytest.TempPathFactory) -> ImageAestheticsPipeline:
    folder = save_scorer(
        tmp_path_factory.mktemp("scorer"), attributes={"light": [0, 10], "color": [1, 5], "depth": [0, 1]}
    )
    rate = pipeline("image-aesthetics", model=folder)
    rate.model.attribute_head.bias.data.copy_(torch.tensor([-100.0, 0.0, 100.0]))  # color, depth, light: in this order
    rate.model.attribute_head.weight.data.zero_()
    return rate


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        draw_photograph(rng, brightness, (40 + 3 * i, 50)) for i, brightness in enumerate((0.2, 0.8, 0.4, 0.6, 0.3))
    ]


@pytest.fixture(scope="module")
def expected(rate: ImageAestheticsPipeline, pictures: list[Image.Image]) -> list[float]:
    found = [rate(picture)["score"] for picture in pictures]
    assert min(abs(a - b) for a, b in itertools.combinations(found, 2)) > 1e-3  # so that a mix-up of places shows
    return found


def scores(results) -> list[float]:
    return [result["score"] for result in results]


@pytest.fixture(scope="module")
def dataset(pictures: list[Image.Image]) -> datasets.Dataset:
    """The pictures, encoded, in a column `image` beside another column of images and one of numbers."""
    cells = [{"bytes": encode(picture), "path": f"{i}.png"} for i, picture in enumerate(pictures)]
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image(), "id": datasets.Value("int64")})
    columns = {"image": cells, "mask": [cells[0]] * len(cells), "id": list(range(len(cells)))}
    return datasets.Dataset.from_dict(columns, features)


def damaged(dataset: datasets.Dataset) -> datasets.Dataset:
    """The same with the third image broken."""
    cells = list(dataset.cast_column("image", datasets.Image(decode=False))["image"])
    cells[2] = {"bytes": BROKEN, "path": "third.jpg"}
    return datasets.Dataset.from_dict({"image": cells}, datasets.Features({"image": datasets.Image()}))


class Rows(Dataset):
    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


class Stream(IterableDataset):
    def __init__(self, items: list) -> None:
        self.items = items

    def __iter__(self) -> Iterator:
        return iter(self.items)


# Forms


def test_one_image_in_every_form(rate, pictures, expected, tmp_path):
    array = np.asarray(pictures[0])
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    path = tmp_path / "a.png"
    path.write_bytes(encode(pictures[0]))
    with path.open("rb") as file:
        forms = [path, str(path), path.read_bytes(), file, pictures[0], array, array / 255, tensor, tensor / 255]
        for form in forms:
            assert rate(form)["score"] == pytest.approx(expected[0], abs=1e-5)
    assert scores(rate([tensor, array, str(path)], batch_size=2)) == pytest.approx([expected[0]] * 3, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_many_images_in_every_form(rate, pictures, expected, dataset, batch_size):
    iterable = dataset.to_iterable_dataset()
    forms = {
        "list": pictures,
        "tuple": tuple(pictures),
        "generator": (picture for picture in pictures),
        "map": map(np.asarray, pictures),
        "torch dataset": Rows(pictures),
        "torch stream": Stream(pictures),
        "dataset": dataset,
        "dataset of one column": dataset.select_columns(["mask", "id"]),
        "column": dataset["image"],
        "KeyDataset": KeyDataset(dataset, "image"),
        "KeyDataset of rows": KeyDataset([{"photo": picture} for picture in pictures], "photo"),
        "torch format": dataset.with_format("torch"),
        "numpy format": dataset.with_format("numpy")["image"],
        "transform": dataset.with_transform(lambda rows: {"image": rows["image"]}),
        "shuffled": dataset.select([4, 2, 0, 1, 3]),
        "iterable": iterable,
        "iterable column": iterable["image"],
        "iterable in torch format": iterable.with_format("torch"),
    }
    for name, form in forms.items():
        found = scores(rate(form, batch_size=batch_size))
        wanted = {"dataset of one column": [expected[0]] * 5, "shuffled": [expected[i] for i in (4, 2, 0, 1, 3)]}
        assert found == pytest.approx(wanted.get(name, expected), abs=1e-5), name


def test_nested_column(rate, dataset, pictures, expected):
    nested = datasets.Dataset.from_dict(
        {"meta": [{"photo": {"bytes": encode(picture), "path": None}} for picture in pictures]},
        datasets.Features({"meta": {"photo": datasets.Image()}}),
    )
    assert scores(rate(nested["meta"]["photo"])) == pytest.approx(expected, abs=1e-5)


def test_dataset_without_a_plain_column(rate, dataset):
    with pytest.raises(ValueError, match=r"columns \['id'\] none holds images; give one, e.g. dataset\['id'\]"):
        rate(dataset.select_columns(["id"]))
    with pytest.raises(ValueError, match=r"several hold images \(photo, mask\); give one, e.g. dataset\['photo'\]"):
        rate(dataset.rename_column("image", "photo"))
    with pytest.raises(ValueError, match=r"splits \['train', 'test'\]; give one of them, e.g. dataset\['train'\]"):
        rate(datasets.DatasetDict({"train": dataset, "test": dataset}))


def test_nothing_to_score(rate, dataset):
    assert rate([]) == [] and rate(()) == []
    for empty in (iter(()), (i for i in ()), Rows([]), dataset.select([]), dataset.select([])["image"]):
        assert list(rate(empty, batch_size=2)) == []


def test_results_of_a_dataset_have_a_length_and_can_be_walked_twice(rate, dataset, expected):
    results = rate(dataset, batch_size=2)
    assert len(results) == 5
    assert next(results)["score"] == pytest.approx(expected[0], abs=1e-5)
    assert scores(results) == pytest.approx(expected, abs=1e-5) == scores(results)


# Laziness


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_stream_is_not_read_ahead(rate, pictures, batch_size):
    taken = 0

    def endless() -> Iterator[Image.Image]:
        nonlocal taken
        while True:
            taken += 1
            yield pictures[0]

    results = rate(endless(), batch_size=batch_size)
    assert taken <= 1  # transformers looks at the first
    for wanted in range(1, 10):
        next(results)
        assert taken == -(-wanted // batch_size) * batch_size


def test_only_the_column_is_decoded(rate, dataset, expected):
    """Neither the mask, which is broken here, nor the images that nobody asked for yet."""
    cells = [{"bytes": BROKEN, "path": None}] * len(dataset)
    mask = datasets.Dataset.from_dict({"mask": cells}, datasets.Features({"mask": datasets.Image()}))
    both = datasets.concatenate_datasets([dataset.remove_columns("mask"), mask], axis=1)
    assert scores(rate(both["image"])) == pytest.approx(expected, abs=1e-5)
    assert next(iter(rate(damaged(dataset))))["score"] == pytest.approx(expected[0], abs=1e-5)


# Errors


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_an_error_takes_the_place_of_its_result(rate, pictures, expected, dataset, batch_size, tmp_path):
    (tmp_path / "empty.jpg").touch()
    mixed = [pictures[0], tmp_path / "empty.jpg", pictures[1], BROKEN, tmp_path / "none.png", pictures[2]]
    for form in (mixed, tuple(mixed), (item for item in mixed), Rows(mixed), Stream(mixed)):
        results = list(rate(form, batch_size=batch_size, on_error="return"))
        assert [results[i]["score"] for i in (0, 2, 5)] == pytest.approx(expected[:3], abs=1e-5)
        assert results[1] == {"error": "it is empty (0 bytes)", "source": repr(str(tmp_path / "empty.jpg"))}
        assert results[3].keys() == {"error", "source"} and results[3]["source"] == "<bytes, 11 B>"
        assert results[4] == {"error": "there is no such file", "source": repr(str(tmp_path / "none.png"))}
    broken = damaged(dataset)
    for form in (
        broken,
        broken["image"],
        KeyDataset(broken, "image"),
        broken.to_iterable_dataset(),
        broken.to_iterable_dataset()["image"],
    ):
        results = list(rate(form, batch_size=batch_size, on_error="return"))
        assert results[2]["source"] == "'third.jpg'" and "not an image" in results[2]["error"]
        assert [results[i]["score"] for i in (0, 1, 3, 4)] == pytest.approx(
            [expected[i] for i in (0, 1, 3, 4)], abs=1e-5
        )


def test_one_image_in_error(rate):
    assert rate(BROKEN, on_error="return")["source"] == "<bytes, 11 B>"
    with pytest.raises(ImageLoadError, match="11 B"):
        rate(BROKEN)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_raising_in_its_turn(rate, pictures, expected, batch_size):
    """By default an error ends a stream, after the results before it; its source and reason are whole."""
    results = rate((item for item in [*pictures[:2], BROKEN, *pictures[2:]]), batch_size=batch_size)
    assert [next(results)["score"], next(results)["score"]] == pytest.approx(expected[:2], abs=1e-5)
    with pytest.raises(ImageLoadError) as error:
        next(results)
    assert error.value.source == "<bytes, 11 B>" and error.value.reason in str(error.value)
    with pytest.raises(ImageLoadError, match="11 B"):
        rate([pictures[0], BROKEN], batch_size=batch_size)


def test_a_dataset_that_cannot_give_an_item(rate, pictures, expected):
    items = [pictures[0], OSError("cannot identify image file"), pictures[1]]
    results = list(rate(Rows(items), batch_size=2, on_error="return"))
    assert results[1] == {
        "error": "the dataset failed to give it (OSError: cannot identify image file)", "source": "<item 1>",
    }  # fmt: skip
    assert scores([results[0], results[2]]) == pytest.approx(expected[:2], abs=1e-5)
    with pytest.raises(OSError, match="cannot identify"):
        list(rate(Rows(items)))


# Workers


def test_workers(rate, pictures, expected, dataset):
    """Processes read; errors come back whole and in their places, an iterator has one process at most."""
    results = list(rate([*pictures, BROKEN], num_workers=2, batch_size=3, on_error="return"))
    assert scores(results[:5]) == pytest.approx(expected, abs=1e-5)
    assert results[5]["source"] == "<bytes, 11 B>"
    assert scores(rate(dataset["image"], num_workers=1, batch_size=2)) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ImageLoadError) as error:
        rate([pictures[0], BROKEN], num_workers=1)
    assert error.value.source == "<bytes, 11 B>" and "worker" not in str(error.value)
    assert scores(rate((picture for picture in pictures), num_workers=3)) == pytest.approx(expected, abs=1e-5)


# Keywords


def test_keywords_at_construction_and_at_the_call(rate, pictures):
    usual = pipeline(
        "image-aesthetics", model=rate.model, image_processor=rate.image_processor, on_error="return", top_attributes=1,
        batch_size=2, max_pixels=100,
    )  # fmt: skip
    results = usual([pictures[0], BROKEN])
    assert "allowed: at most 100" in results[0]["error"] and "not an image" in results[1]["error"]
    assert list(usual(pictures[0], max_pixels=10**6)["attributes"]) == ["light"]
    assert len(usual(pictures[0], max_pixels=10**6, top_attributes=None)["attributes"]) == 3
    with pytest.raises(ImageLoadError):
        usual(BROKEN, on_error="raise")
    assert usual.score_many([pictures[0]])[0].keys() == {"error"}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"on_error": "skip"}, "on_error='skip'; allowed: 'raise', 'return'"),
        ({"top_attributes": 0}, "top_attributes=0; allowed: an integer of at least 1"),
        ({"top_attributes": True}, "top_attributes=True"),
        ({"reduced_decoding": 1}, "reduced_decoding=1; allowed: True or False"),
        ({"allow_truncated": "yes"}, "allow_truncated='yes'; allowed: True or False"),
        ({"max_pixels": 0}, "`max_pixels` is 0"),
    ],
)
def test_refused_values(rate, pictures, keywords, message):
    with pytest.raises(ValueError, match=message):
        rate(pictures[0], **keywords)


def test_top_attributes_are_the_highest_on_their_scales(rate, pictures, tmp_path):
    assert rate(pictures[0])["attributes"] == pytest.approx({"color": 1, "depth": 0.5, "light": 10})
    assert list(rate(pictures[0], top_attributes=2)["attributes"].items()) == [("light", 10.0), ("depth", 0.5)]
    assert [len(r["attributes"]) for r in rate(pictures, top_attributes=9, batch_size=2)] == [3] * 5
    plain = pipeline("image-aesthetics", model=save_scorer(tmp_path))
    with pytest.raises(ValueError, match="top_attributes=2, but this model has no attributes"):
        plain(pictures[0], top_attributes=2)


def test_reduced_decoding(rate, monkeypatch):
    sizes = []
    original = pipeline_cskd.prepared_pixels

    def seen(image, *args):
        sizes.append(image.size)
        return original(image, *args)

    monkeypatch.setattr(pipeline_cskd, "prepared_pixels", seen)
    data = encode(gradient(800, 640), "JPEG", quality=95)
    full, reduced = rate(data), rate(data, reduced_decoding=True)
    assert sizes == [(800, 640), (100, 80)]  # the model sees 32 x 32
    assert reduced["score"] != full["score"] and reduced["score"] == pytest.approx(full["score"], abs=0.08)


def test_truncated_file(rate):
    data = encode(gradient(320, 240), "JPEG")
    with pytest.raises(ImageLoadError):
        rate(data[:-500])
    assert rate(data[:-500], allow_truncated=True)["score"] == pytest.approx(rate(data)["score"], abs=0.2)


# Image processors that keep the aspect ratio


@pytest.fixture(scope="module")
def uncropped(rate: ImageAestheticsPipeline) -> ImageAestheticsPipeline:
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False)
    return pipeline("image-aesthetics", model=rate.model, image_processor=processor)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_images_of_several_prepared_sizes_in_a_batch(uncropped, pictures, batch_size):
    alone = [uncropped(picture)["score"] for picture in pictures]
    mixed = [pictures[0], pictures[0].transpose(Image.Transpose.ROTATE_90), *pictures, BROKEN]
    results = uncropped(mixed, batch_size=batch_size, on_error="return")
    assert scores(results[2:7]) == pytest.approx(alone, abs=1e-5)
    assert results[0]["score"] == pytest.approx(alone[0], abs=1e-5) and "error" in results[7]
    assert scores(uncropped.score_many(pictures)) == pytest.approx(alone, abs=1e-5)


def test_slim_pictures(rate, uncropped):
    """A picture of 1 x 10000 would become one of 32 x 320000, or a thousand times that for a large one."""
    slim = Image.new("RGB", (1, 100_000), "teal")
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    cropping = pipeline("image-aesthetics", model=rate.model, image_processor=processor)
    square = cropping(Image.new("RGB", (50, 50), "teal"))["score"]
    assert cropping(slim)["score"] == pytest.approx(square, abs=1e-5)
    assert cropping(slim.transpose(Image.Transpose.ROTATE_90))["score"] == pytest.approx(square, abs=1e-5)
    with pytest.raises(ImageLoadError, match="1x100000 pixels are too slim for this model"):
        uncropped(slim)
    assert rate(slim)["score"] == pytest.approx(rate(Image.new("RGB", (50, 50), "teal"))["score"], abs=1e-5)


def test_the_middle_is_what_the_image_processor_would_crop():
    rng = np.random.default_rng(0)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    picture = Image.fromarray(rng.integers(0, 255, (6, 700, 3), dtype=np.uint8).repeat(4, axis=1))
    for one in (picture, picture.transpose(Image.Transpose.ROTATE_90)):
        kept = within_reach(one, processor, "it")
        assert max(kept.size) < 60
        whole, middle = (processor(images=image, return_tensors="np")["pixel_values"] for image in (one, kept))
        assert np.abs(whole - middle).mean() < 0.05
    assert within_reach(picture.resize((600, 6)), processor, "it").size == (600, 6)  # up to 100 to 1 as it is


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"size": {"shortest_edge": 224}}, 224),
        ({"size": {"height": 192, "width": 256}}, 256),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 256),
        ({"size": {"shortest_edge": 224}, "do_resize": False}, None),
    ],
)
def test_side_that_is_resized_to(settings, side):
    class Processor:
        do_resize = True

    processor = Processor()
    for name, value in settings.items():
        setattr(processor, name, value)
    assert resize_side(processor) == side


def test_file_object_is_one_image(rate, pictures, expected):
    assert rate(io.BytesIO(encode(pictures[0])))["score"] == pytest.approx(expected[0], abs=1e-5)
    assert load_image(io.BytesIO(encode(pictures[0]))).size == pictures[0].size
