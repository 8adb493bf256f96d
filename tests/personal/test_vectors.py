from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from conftest import draw_photograph
from cskd_hf.cli import main
from cskd_hf.data.ratings import RatingsError
from cskd_hf.evaluation.metrics import srcc
from cskd_hf.evaluation.predict import load_scorer
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics
from cskd_hf.personal.base import save_scorer
from cskd_hf.personal.scorers import apply_vectors, fit_rater, images_to_ask, make_vectors
from cskd_hf.personal.taste import RatedFeatures, choose_images, fit_head, fit_scales, head_effects, head_scores
from cskd_hf.personal.vectors import TaskVector, VectorError, add_vector, base_of, load_bank, task_vector, weighted_sum
from cskd_hf.training.settings import SettingsError

VALUES = [1.0, 2.0, 3.0, 4.0, 5.0]


def scorer(encoder: str, seed: int = 0) -> CSKDForImageAesthetics:
    torch.manual_seed(seed)
    model = CSKDForImageAesthetics.from_encoder(encoder, score_values=VALUES).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory, encoder):
    """A general scorer on disk."""
    from cskd_hf.data.views import Preprocessing

    folder = tmp_path_factory.mktemp("base") / "scorer"
    save_scorer(scorer(encoder), Preprocessing((32, 32)), folder)
    return str(folder)


@pytest.fixture(scope="module")
def votes(tmp_path_factory):
    """Four raters of 30 photographs: two like bright ones, one dark ones, one rated only three."""
    folder = tmp_path_factory.mktemp("votes")
    rng = np.random.default_rng(0)
    with open(folder / "votes.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "rater", "rating"])
        for number in range(30):
            brightness = rng.uniform(0.15, 0.85)
            draw_photograph(rng, brightness).save(folder / f"{number}.png")
            for rater, liking in (("anna", 4), ("böb/../x", 3), ("carl", -4)):
                rating = round(float(np.clip(3 + liking * (brightness - 0.5) + rng.normal(0, 0.3), 1, 5)))
                table.writerow([f"{number}.png", rater, rating])
            if number < 3:
                table.writerow([f"{number}.png", "dora", number + 1])
    return str(folder / "votes.csv")


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_added_and_taken_away_again(encoder, tmp_path, dtype):
    model, tuned = scorer(encoder), scorer(encoder)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    vector = task_vector(model, tuned, rater="anna")
    vector.save(tmp_path / "anna.safetensors", dtype)
    loaded = TaskVector.load(tmp_path / "anna.safetensors")
    assert loaded.facts == {"rater": "anna"} and loaded.base == base_of(model)
    before = weights(model)
    add_vector(model, loaded, 0.7)
    assert not torch.equal(model.classifier.weight, before["classifier.weight"])
    if dtype == "float32":
        add_vector(model, loaded, 0.3)  # 0.7 + 0.3: the personal model itself
        for name, value in tuned.state_dict().items():
            assert torch.allclose(model.state_dict()[name], value, atol=1e-6), name
        add_vector(model, loaded, -0.3)
    add_vector(model, loaded, -0.7)
    for name, value in before.items():
        rounding = 4 * torch.finfo(torch.float32).eps * (value.abs() + loaded.tensors.get(name, torch.zeros(1)).abs())
        assert ((model.state_dict()[name] - value).abs() <= rounding).all(), name


def test_size_of_a_head(encoder, tmp_path):
    model = scorer(encoder)
    vector = fit_head(model, RatedFeatures(torch.randn(20, 16), torch.rand(20) * 4 + 1), 10.0)
    vector.save(tmp_path / "x.safetensors")
    assert set(vector.tensors) == {"classifier.weight", "classifier.bias"} and len(vector) == 17 * 5
    assert (tmp_path / "x.safetensors").stat().st_size < 2000


def test_a_wrong_base_is_refused_and_nothing_changes(encoder):
    model, other = scorer(encoder, 0), scorer(encoder, 1)
    vector = fit_head(other, RatedFeatures(torch.randn(20, 16), torch.rand(20) * 4 + 1), 10.0, rater="anna")
    before = weights(model)
    with pytest.raises(VectorError, match="of anna was made for the base"):
        add_vector(model, vector)
    wrong_shape = TaskVector({"classifier.bias": torch.zeros(7)}, base_of(model))
    with pytest.raises(VectorError, match="classifier.bias"):
        add_vector(model, wrong_shape)
    with pytest.raises(VectorError, match="finite"):
        add_vector(model, TaskVector({}, base_of(model)), float("nan"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(VectorError, match="different bases"):
        weighted_sum([vector, wrong_shape], [1, 1])


def test_files_that_are_none(tmp_path, base):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name, message in (("other", "is no task vector"), ("broken", "cannot be read"), ("gone", "cannot be read")):
        with pytest.raises(VectorError, match=message):
            TaskVector.load(tmp_path / f"{name}.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VectorError, match="holds no"):
        load_bank(tmp_path / "empty")


def test_a_head_learns_the_rest(encoder):
    """A taste that is linear in the features is found from many ratings without noise."""
    model = scorer(encoder)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 16, generator=generator) * 0.3
    general, _ = head_scores(model.classifier, VALUES, features)
    true = general + 0.3 * features[:, 0].double()
    vector = fit_head(model, RatedFeatures(features, true), 0.1)
    add_vector(model, vector)
    personal, _ = head_scores(model.classifier, VALUES, features)
    # Tilting is linear to first order only.
    assert (personal - true).square().mean() < 0.05 * (general - true).square().mean()


def test_scales_find_the_rater_in_the_bank(encoder):
    """A rater who is twice the first of the bank minus half the second, from 12 ratings."""
    model = scorer(encoder)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(12, 16, generator=generator) * 0.3
    many = torch.randn(300, 16, generator=generator) * 0.3
    bank = []
    for column in range(3):
        general, _ = head_scores(model.classifier, VALUES, many)
        bank.append(fit_head(model, RatedFeatures(many, general + 0.2 * many[:, column].double()), 0.1))
    general, variance = head_scores(model.classifier, VALUES, features)
    effects = head_effects(model, features, bank)
    ratings = general + 2 * effects[:, 0] - 0.5 * effects[:, 1] + 0.25 * variance / variance.mean()
    fit = fit_scales(model, RatedFeatures(features, ratings), bank, effects, noise=1e-6)
    assert fit.scales == pytest.approx([2, -0.5, 0], abs=0.05)
    add_vector(model, fit.vector)
    personal, _ = head_scores(model.classifier, VALUES, features)
    assert (personal - ratings).square().mean() < 0.1 * (general - ratings).square().mean()
    strong = fit_scales(scorer(encoder), RatedFeatures(features, ratings), bank, effects, noise=1e9)
    assert np.abs(strong.scales).max() < 1e-6  # noise alone: the general scorer and an offset


def test_left_out_scores_are_those_of_fits_without_the_image(encoder):
    model = scorer(encoder)
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(15, 16, generator=generator) * 0.3
    ratings = torch.rand(15, generator=generator).double() * 4 + 1
    bank = [fit_head(model, RatedFeatures(torch.randn(40, 16, generator=generator), torch.rand(40, generator=generator) * 4 + 1), 30.0) for _ in range(4)]  # fmt: skip
    effects = head_effects(model, features, bank)
    whole = fit_scales(model, RatedFeatures(features, ratings), bank, effects, noise=0.5)
    general, variance = head_scores(model.classifier, VALUES, features)
    for row in (0, 7):
        rest = [other for other in range(15) if other != row]
        from cskd_hf.personal.taste import _ridge_with_offset

        free = (variance / variance.mean()).numpy()
        scales, offset, _ = _ridge_with_offset(
            effects.numpy()[rest], free[rest], (ratings - general).numpy()[rest], 0.5 * 4
        )
        expected = general.numpy()[row] + effects.numpy()[row] @ scales + free[row] * offset
        assert whole.left_out[row] == pytest.approx(expected, abs=1e-9)


def test_commands(base, votes, tmp_path, capsys):
    """Vectors of the raters, a new one fitted to them, added and taken away: from the command line."""
    bank, mine, personal, again = (str(tmp_path / name) for name in ("bank", "me.safetensors", "personal", "again"))
    assert main(["personalize", "vectors", base, votes, "--output", bank, "--quiet"]) == 0
    files = load_bank(bank)
    assert sorted(vector.facts["rater"] for vector in files.values()) == ["anna", "böb/../x", "carl"]
    assert all((tmp_path / "bank" / name).is_file() for name in files)  # no name leads out of the folder
    assert (
        main(["personalize", "fit", base, votes, "--rater", "carl", "--bank", bank, "--output", mine, "--quiet"]) == 0
    )
    assert "general scorer" in capsys.readouterr().out
    vector = TaskVector.load(mine)
    assert vector.facts["bank"] == 2  # carl's own vector is not used to foretell carl
    assert main(["personalize", "apply", base, mine, "--output", personal]) == 0
    assert main(["personalize", "apply", personal, mine, "--scale", "-1", "--output", again]) == 0
    models = [load_scorer(folder)[0] for folder in (base, personal, again)]
    first, changed, last = (model.classifier.weight for model in models)
    assert not torch.allclose(first, changed, atol=1e-3) and torch.allclose(first, last, atol=1e-6)
    assert models[1].config.provenance["task_vectors"]["added"] == [{"vector": "carl", "scale": 1.0}]
    assert main(["personalize", "apply", base, f"{bank}/anna.safetensors", "--output", str(tmp_path)]) == 2
    assert "is no model" in capsys.readouterr().err


def test_a_vector_of_the_head_changes_the_order(base, votes, tmp_path):
    """Carl likes it dark, and his own model knows."""
    paths = make_vectors(base, votes, str(tmp_path))
    apply_vectors(base, [str(paths["carl"])], str(tmp_path / "carl-model"))
    from cskd_hf.personal.base import Base

    rows = list(csv.DictReader(open(votes, newline="")))
    true = {row["image"]: float(row["rating"]) for row in rows if row["rater"] == "carl"}
    found = {}
    for name in (base, str(tmp_path / "carl-model")):
        general = Base(name, tmp_path)
        general.folder = type(general.folder)(votes).parent
        general.read({image: image for image in true}, quiet=True)
        rated, _ = general.rated(true)
        scores = head_scores(general.model.classifier, VALUES, rated.features)[0]
        found[name] = srcc(scores.numpy(), rated.ratings.numpy())
    assert found[str(tmp_path / "carl-model")] > 0.6 and found[str(tmp_path / "carl-model")] > found[base]


@pytest.mark.parametrize("parts", ["last", "all"])
def test_vectors_of_layers(base, votes, tmp_path, parts):
    paths = make_vectors(base, votes, str(tmp_path), parts=parts, steps=3, learning_rate=1e-2, min_ratings=30)
    vector = TaskVector.load(paths["anna"])
    backbone = {name for name in vector.tensors if name.startswith("backbone.")}
    assert backbone and not any("running" in name for name in backbone)
    assert any("embedder" in name for name in backbone) == (parts == "all")
    fitted, figures = fit_rater(base, votes, bank=str(tmp_path), rater="carl")
    assert set(fitted.tensors) == set(vector.tensors) and set(figures) >= {"srcc", "general_srcc"}
    apply_vectors(base, [str(paths["anna"]), str(paths["carl"])], str(tmp_path / "both"), [0.5])
    load_scorer(str(tmp_path / "both"))


def test_refusals(base, votes, tmp_path, encoder):
    with pytest.raises(RatingsError, match="none of 4 raters has 31"):
        make_vectors(base, votes, str(tmp_path / "bank"), min_ratings=31)
    with pytest.raises(SettingsError, match="at least 5"):
        make_vectors(base, votes, str(tmp_path / "bank"), min_ratings=2)
    with pytest.raises(RatingsError, match="outside 2 to 3"):
        make_vectors(base, votes, str(tmp_path / "bank"), scale=(2, 3))
    with pytest.raises(RatingsError, match="no rater 'emil'"):
        fit_rater(base, votes, rater="emil")
    with pytest.raises(RatingsError, match="3 readable ratings; at least 5"):
        fit_rater(base, votes, rater="dora")
    equal = tmp_path / "equal.csv"
    folder = votes.removesuffix("votes.csv")
    equal.write_text("image,score\n" + "".join(f"{folder}{number}.png,3\n" for number in range(6)))
    with pytest.raises(RatingsError, match="all 6 ratings are equal"):
        fit_rater(base, str(equal))
    save_scorer(scorer(encoder, 5), load_scorer(base)[1], tmp_path / "other")
    make_vectors(str(tmp_path / "other"), votes, str(tmp_path / "others"))
    with pytest.raises(VectorError, match="made for the base"):
        fit_rater(base, votes, bank=str(tmp_path / "others"), rater="carl")
    with pytest.raises(SettingsError, match="for all or one each"):
        apply_vectors(base, ["a", "b", "c"], str(tmp_path / "x"), [1, 2])


def test_another_scale_and_unreadable_images(base, votes, tmp_path, capsys):
    """Ratings from 0 to 100 of files, one of which is none."""
    folder = votes.removesuffix("votes.csv")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    file = tmp_path / "mine.csv"
    lines = [f"{folder}{number}.png,{number * 5}" for number in range(12)]
    file.write_text("image,score\n" + "\n".join(lines) + f"\n{tmp_path}/bad.png,50\n")
    vector, figures = fit_rater(base, str(file), scale=(0, 100))
    assert vector.facts["ratings"] == 12 and vector.facts["rater"] == "mine" and not figures
    assert "bad.png" in capsys.readouterr().err


def test_chosen_images_tell_most(encoder):
    """The greedy choice lowers the posterior variance of the rest as a brute-force search of each next image does."""
    effects = torch.randn(30, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    chosen = choose_images(effects, 4, noise=2.0)
    e = effects.numpy() / 2  # by the root of the number of vectors
    design, wanted = (
        np.concatenate([e, np.ones((30, 1))], axis=1),
        np.concatenate([e - e.mean(0), np.zeros((30, 1))], axis=1),
    )

    def left(rows: list[int]) -> float:
        covariance = np.linalg.inv(np.eye(5) + design[rows].T @ design[rows] / 2.0)
        return float(np.trace(wanted @ covariance @ wanted.T))

    for number in range(4):
        before = chosen[:number]
        best = min((row for row in range(30) if row not in before), key=lambda row: left([*before, row]))
        assert chosen[number] == best
    assert len(set(choose_images(effects, 99, 2.0))) == 30


def test_ask(base, votes, tmp_path, photographs):
    make_vectors(base, votes, str(tmp_path / "bank"))
    output = tmp_path / "to_rate.csv"
    arguments = ["personalize", "ask", base, "--bank", str(tmp_path / "bank"), "--images", photographs, "--count", "6"]
    assert main([*arguments, "--output", str(output)]) == 0
    rows = list(csv.DictReader(open(output, newline="")))
    assert len({row["image"] for row in rows}) == 6 and {row["rating"] for row in rows} == {""}
    # Filled in, it is what `fit` takes.
    output.write_text(
        "image,rating\n" + "".join(f"{row['image']},{1 + number % 5}\n" for number, row in enumerate(rows))
    )
    vector, _ = fit_rater(base, str(output), images=photographs, bank=str(tmp_path / "bank"))
    assert vector.facts["ratings"] == 6
    with pytest.raises(SettingsError, match="between 1 and 40"):
        images_to_ask(base, str(tmp_path / "bank"), photographs, 41)
