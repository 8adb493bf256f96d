"""Rated sets of a run, what is learned from them, and where their heads start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rated_sets import of_means, with_attributes

from cskd_hf.data.ratings import RatingsError
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.metrics import srcc
from cskd_hf.evaluation.predict import RatedImages, pooled_features
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics, squared_emd
from cskd_hf.training.arguments import TeacherSettings
from cskd_hf.training.build import build_model, provenance
from cskd_hf.training.output import prepare_output
from cskd_hf.training.rated_data import RatedData, stream_name
from cskd_hf.training.rated_task import RatingTask
from cskd_hf.training.settings import SettingsError
from cskd_hf.training.teacher import start_head, start_rated_task

SIZE = Preprocessing(size=(32, 32))


def settings(encoder: str, *ratings: str, **changes) -> TeacherSettings:
    given = TeacherSettings(encoder=encoder, output_dir="o", ratings=list(ratings), image_size=32, **changes)
    given.check()
    return given


@pytest.fixture(scope="module")
def folder(ratings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    with_attributes(ratings, folder)
    of_means(ratings, folder)
    return folder


@pytest.fixture(scope="module")
def attributes(folder) -> str:
    return str(folder / "attributes")


@pytest.fixture(scope="module")
def means(folder) -> str:
    return str(folder / "means.csv")


def two_sets(encoder: str, attributes: str, means: str, **changes) -> RatedData:
    return RatedData(settings(encoder, attributes, means, score_values=[0, 5, 10], **changes))


def build(encoder: str, data: RatedData) -> tuple[CSKDForImageAesthetics, RatingTask]:
    torch.manual_seed(0)
    heads = {"score_values": data.score_values, "attributes": data.attributes}
    model = build_model(CSKDForImageAesthetics, data.settings, **heads)
    return model, RatingTask(model, SIZE, rated=data)


def test_one_location_needs_no_list(encoder, attributes, ratings):
    assert settings(encoder, attributes) == TeacherSettings(
        encoder=encoder, output_dir="o", ratings=attributes, image_dir="", image_size=32
    )
    data = RatedData(TeacherSettings(ratings=ratings, image_dir=str(Path(ratings).parent)))
    assert len(data.train) == 36 and data.distributions.shape == (36, 5) and data.attributes == {}
    assert set(data.main.stream(4, 32).targets) == {"means", "ratings"}


def test_sets_keep_their_scales_and_share_the_batch_by_size_or_weight(encoder, attributes, means):
    data = two_sets(encoder, attributes, means)
    assert [rated.score_values for rated in data.sets] == [[1, 2, 3, 4, 5], [0, 5, 10]]
    assert data.score_values == [1, 2, 3, 4, 5] and len(data.train) == 24 and len(data.validation) == 8
    assert data.weights == [24 / 40, 16 / 40]
    assert {name: stream.batch_size for name, stream in data.streams(10, 32).items()} == {"rated": 6, "rated_2": 4}
    weighted = two_sets(encoder, attributes, means, ratings_weights=[99, 1])
    assert [stream.batch_size for stream in weighted.streams(10, 32).values()] == [9, 1]
    with pytest.raises(SettingsError, match="a batch has 1 rated images, fewer than the 2 sets"):
        data.streams(1, 32)
    fewer = two_sets(encoder, attributes, means, labels=5)
    assert [len(rated.train) for rated in fewer.sets] == [5, 16]


def test_score_values_are_for_sets_without_own(encoder, attributes, means, ratings):
    with pytest.raises(RatingsError, match="ends of the scale are unknown"):
        RatedData(settings(encoder, attributes, means))
    with pytest.raises(SettingsError, match=r"score_values=\[1.0, 5.0\], but every set has its own"):
        RatedData(settings(encoder, attributes, ratings, score_values=[1.0, 5.0]))
    with pytest.raises(RatingsError, match="was saved with"):
        RatedData(settings(encoder, attributes, score_values=[0, 5, 10]))


def test_images_that_the_first_set_is_judged_by_are_not_trained_on(encoder, ratings, tmp_path):
    with_attributes(ratings, tmp_path)
    of_means(ratings, tmp_path, first=0)  # all 48, the 8 validation images of the first set among them
    data = two_sets(encoder, str(tmp_path / "attributes"), str(tmp_path / "means.csv"))
    assert data.leaks == 8 and len(data.sets[1].train) == 40
    trained = {Path(image["path"]).name for image in data.sets[1].train["image"]}
    assert trained.isdisjoint(Path(image["path"]).name for image in data.validation["image"])
    assert len(data.judged) == 8 and data.facts()["rated_leaks"] == 8


def test_provenance_says_what_is_synthetic_and_names_no_folder(encoder, attributes, means):
    data = two_sets(encoder, attributes, means)
    assert data.facts() == {
        "rated_images": 24, "further_rated_images": [16], "ratings_weights": [0.6, 0.4], "mean_only_images": 8 + 16,
    }  # fmt: skip
    soft = two_sets(encoder, attributes, means, soft_bins=[0.5, 2.0])
    assert soft.facts()["synthetic_histograms"] == {"images": 8 + 16, "width": [0.5, 2.0]}
    assert "mean_only_images" not in soft.facts()
    named = provenance("teacher", data.settings)["ratings"]
    assert named == ["attributes", "means.csv"]
    elsewhere = settings(encoder, f"ava:{Path(means).parent}?images=drop")
    assert provenance("teacher", elsewhere)["ratings"] == [f"ava:{Path(means).parent.name}?images=drop"]


def test_soft_bins_have_the_means_of_the_ratings(encoder, attributes, means, ratings):
    plain, soft = two_sets(encoder, attributes, means), two_sets(encoder, attributes, means, soft_bins=1.0)
    assert plain.main.mixed and not plain.sets[1].known.any() and plain.distributions is None
    for before, after in zip(plain.sets, soft.sets):
        assert after.known.all() and after.synthetic == (~before.known).sum()
        assert torch.equal(after.histograms[before.known], before.histograms[before.known])
        assert after.histograms @ torch.tensor(after.score_values) == pytest.approx(after.means, abs=1e-5)
    assert soft.validation["distribution"][:] == plain.validation["distribution"][:]  # judged by what was voted
    with pytest.raises(SettingsError, match="every rated image has one"):
        RatedData(settings(encoder, ratings, soft_bins=[1.0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"soft_bins": [1.0, 2.0, 3.0]}, "one value, or one for each of the 2 --ratings"),
        ({"soft_bins": [-1.0]}, "widths above 0"),
        ({"ratings_weights": [1.0]}, "2 --ratings need as many --ratings-weights"),
        ({"attributes": ["color"]}, "NAME=LOWEST:HIGHEST"),
        ({"attributes": ["color=5:1"]}, "NAME=LOWEST:HIGHEST"),
        ({"freeze": "half"}, "freeze='half' must be a number"),
        ({"freeze": 0}, "freeze='0' must be a number"),
        ({"layer_decay": 1.5}, "layer_decay=1.5 must be above 0, at most 1"),
        ({"ratings": ["a", "a"]}, "ratings names a more than once"),
        ({"ratings": []}, "ratings is not set"),
    ],
)
def test_settings_refuse(changes, message):
    with pytest.raises(SettingsError) as caught:
        TeacherSettings(**{"encoder": "e", "output_dir": "o", "ratings": ["a", "b"]} | changes).check()
    assert message in str(caught.value)


def test_attributes_of_a_file_are_named_in_the_settings(encoder, ratings, tmp_path):
    lines = Path(ratings).read_text().splitlines()
    table = [
        lines[0] + ",light",
        *(f"{line},{number % 3 if number % 5 else ''}" for number, line in enumerate(lines[1:])),
    ]
    (tmp_path / "r.csv").write_text("\n".join(table))
    data = RatedData(
        settings(encoder, str(tmp_path / "r.csv"), image_dir=str(Path(ratings).parent), attributes=["light=0:2"])
    )
    assert data.attributes == {"light": (0.0, 2.0)}
    assert set(data.main.attribute_shares[:, 0].nan_to_num(9).tolist()) == {0.0, 0.5, 1.0, 9.0}
    assert RatedData(settings(encoder, str(tmp_path / "r.csv"), image_dir=str(Path(ratings).parent))).attributes == {}


def batch_of(data: RatedData, size: int = 12) -> dict:
    """The first images of each set as a batch, without their pixels."""
    batch = {}
    for number, rated in enumerate(data.sets):
        rows = {name: value[:size] for name, value in rated.targets().items()}
        batch[stream_name(number)] = {"crops": torch.zeros(len(rows["means"]), 1), **rows}
    return batch


def output_of(model: CSKDForImageAesthetics, images: int) -> SimpleNamespace:
    pooled = torch.randn(images, model.config.feature_size)
    return SimpleNamespace(pooler_output=pooled, distribution=model.classifier(pooled).softmax(-1))


def test_losses_by_hand(encoder, attributes, means):
    data = two_sets(encoder, attributes, means, attribute_weight=0.25, ratings_weights=[3, 1])
    model, task = build(encoder, data)
    batch = batch_of(data)
    output = output_of(model, 12 + 12 + 5)  # 5 unrated images at the end
    parts = task.rated_parts(output, batch)

    histograms, means_1 = batch["rated"]["ratings"], batch["rated"]["means"]
    rows = []
    for row in range(12):
        predicted = output.distribution[row : row + 1]
        if histograms[row].isnan().any():
            rows.append((((predicted @ torch.arange(1.0, 6.0)) - means_1[row]) / 4) ** 2)
        else:
            rows.append(squared_emd(predicted, histograms[row : row + 1]))
    assert 0 < sum(len(row) for row in rows) == 12 and histograms.isnan().any()
    first = torch.cat(rows).mean()
    own = task.further_heads[0](output.pooler_output[12:24]).softmax(-1) @ torch.tensor([0.0, 5, 10])
    second = (((own - batch["rated_2"]["ratings"]) / 10) ** 2).mean()
    assert parts["rated_1"].item() == pytest.approx(first.item(), rel=1e-5)
    assert parts["rated_2"].item() == pytest.approx(second.item(), rel=1e-5)
    assert parts["rated"].item() == pytest.approx((0.75 * first + 0.25 * second).item(), rel=1e-5)

    predicted = model.attribute_head(output.pooler_output[:12]).sigmoid()
    expected = 0.0
    for column, name in enumerate(["color", "light"]):
        where = list(data.main.attributes).index(name)
        known = ~batch["rated"]["attributes"][:, where].isnan()
        assert 0 < known.sum() < 12
        errors = (predicted[known, column] - batch["rated"]["attributes"][known, where]) ** 2
        coverage = (~data.main.attribute_shares[:, where].isnan()).float().mean()
        expected += errors.sum() / 12 / coverage / 2
    assert parts["attributes"].item() == pytest.approx(0.75 * expected.item(), rel=1e-5)
    assert parts["loss"].item() == pytest.approx((parts["rated"] + 0.25 * parts["attributes"]).item(), rel=1e-5)
    parts["loss"].backward()
    trained = [*model.classifier.parameters(), *model.attribute_head.parameters(), *task.further_heads.parameters()]
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in trained)


def test_batch_without_known_attributes_reaches_their_head_with_nothing(encoder, attributes, means):
    data = two_sets(encoder, attributes, means)
    model, task = build(encoder, data)
    batch = batch_of(data)
    batch["rated"]["attributes"] = torch.full_like(batch["rated"]["attributes"], torch.nan)
    parts = task.rated_parts(output_of(model, 24), batch)
    parts["loss"].backward()
    assert parts["attributes"] == 0 and (model.attribute_head.weight.grad == 0).all()


def test_attributes_of_several_sets(encoder, ratings, tmp_path):
    first = with_attributes(ratings, tmp_path, "first", color=(1.0, 5.0))
    further = with_attributes(ratings, tmp_path, "further", light=(0.0, 1.0), color=(0.0, 10.0), depth=(0.0, 1.0))
    data = RatedData(settings(encoder, first, further))
    assert data.leaks == 0  # the same images, but in the same splits
    model, task = build(encoder, data)
    assert model.config.attributes == {"color": [1, 5], "depth": [0, 1], "light": [0, 1]}
    assert task.further_heads[0].out_features == 5 + 1  # the further set's color has another scale
    batch = batch_of(data)
    task.rated_parts(output_of(model, 24), batch)["loss"].backward()
    assert (model.attribute_head.weight.grad.abs().sum(1) > 0).all()
    assert (task.further_heads[0].weight.grad.abs().sum(1) > 0).all()
    start_head(model, SIZE, data)
    start_rated_task(task, data)
    rows, features = pooled_features(model, RatedImages(data.sets[1].train, SIZE))
    truth = data.sets[1].attribute_shares[:, list(data.sets[1].attributes).index("depth")]
    known = ~truth.isnan()
    predicted = model.attribute_values(features)[:, 1]
    assert srcc(predicted[known].detach().numpy(), truth[known].numpy()) > 0.7
    without = RatedData(settings(encoder, first, further, attribute_weight=0))
    assert without.attributes == {} and "attributes" not in without.sets[1].targets()


def test_heads_start_from_their_probes(encoder, attributes, means):
    data = two_sets(encoder, attributes, means)
    model, task = build(encoder, data)
    start_head(model, SIZE, data)
    start_rated_task(task, data)
    rows, features = pooled_features(model, RatedImages(data.train, SIZE))
    for column, name in enumerate(["color", "light"]):
        shares = data.main.attribute_shares[rows, list(data.main.attributes).index(name)]
        known = ~shares.isnan()
        predicted = model.attribute_head(features[known])[:, column].sigmoid()
        assert srcc(predicted.detach().numpy(), shares[known].numpy()) > 0.7
        assert predicted.mean().item() == pytest.approx(shares[known].mean().item(), abs=0.05)
    rows, features = pooled_features(model, RatedImages(data.sets[1].train, SIZE))
    own = (task.further_heads[0](features).softmax(-1) @ torch.tensor([0.0, 5, 10])).detach().numpy()
    assert srcc(own, np.asarray(data.sets[1].train["mean"])[rows]) > 0.7
    before = build(encoder, two_sets(encoder, attributes, means, head_init="random"))
    start_rated_task(before[1], two_sets(encoder, attributes, means, head_init="random"))
    assert not torch.equal(before[1].further_heads[0].weight, task.further_heads[0].weight)


def test_run_of_before_there_were_several_sets_is_still_the_same_run(tmp_path):
    resumed = TeacherSettings(encoder="e", ratings="r.csv", output_dir=str(tmp_path), resume=True)
    (tmp_path / "settings.yaml").write_text("encoder: e\nratings: r.csv\nimage_dir: ''\nmax_steps: 200\n")
    prepare_output(resumed)
    with pytest.raises(SettingsError, match=r"ratings: \['r.csv'\] before, \['r.csv', 's.csv'\] now"):
        prepare_output(replace(resumed, ratings=["r.csv", "s.csv"]))
