"""The synthetic album: reproducible, well-formed, rated as documented, and the tiny CLIP that was trained on it."""

from __future__ import annotations

import io
import json

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPModel, CLIPVisionModelWithProjection

from cskd_hf.data.ratings.schema import score_values_of
from cskd_hf.data.synthetic import (
    CASTS,
    COLORS,
    LANDS,
    PARTS,
    PLACEMENTS,
    SCORE_VALUES,
    SUBJECTS,
    TIMES,
    RaterPopulation,
    SyntheticPhotographs,
    draw_factors,
    latent_score,
    rating_parts,
    tiny_clip_path,
    to_dataset,
)
from cskd_hf.data.synthetic.generate import CHUNK
from cskd_hf.data.synthetic.photography import gaussian_blur, photograph
from cskd_hf.data.synthetic.scenes import render_scene
from cskd_hf.data.synthetic.tiny_clip import (
    PatchDropout,
    WordTokenizer,
    build_tiny_clip,
    contrastive_loss,
    embed_images,
    embed_tokens,
    pretrain,
    recall_at,
    to_pixel_values,
)
from cskd_hf.evaluation.metrics import srcc
from cskd_hf.training.probe import ridge_probe

SEED = 7


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def batch():
    return SyntheticPhotographs(SEED).generate(2 * CHUNK)


def neutral_factors(count: int = 32, **changes: float) -> dict[str, torch.Tensor]:
    """Well-lit, level, plain photographs by day in colour, with some factors set to one value."""
    factors = draw_factors(count, torch.Generator().manual_seed(0))
    plain = {
        "time": TIMES.index("day"),
        "exposure": 0.0,
        "contrast": 1.0,
        "saturation": 1.0,
        "blur": 0.0,
        "bokeh": 0.0,
    }
    plain |= {"noise": 0.0, "tilt": 0.0, "vignette": 0.0, "cast": 0, "cast_strength": 0.0, "stars": 0.0, "clutter": 0}
    for name, value in (plain | changes).items():
        factors[name] = torch.full_like(factors[name], value)
    return factors


def take(**changes: float) -> torch.Tensor:
    """Photographs of the same 32 scenes under changed factors: float (32, 64, 64, 3), 0..1."""
    factors = neutral_factors(**changes)
    scene = render_scene(factors, torch.Generator().manual_seed(1))
    return photograph(scene, factors, torch.Generator().manual_seed(2)).float() / 255


def detail(images: torch.Tensor) -> float:
    """Mean squared difference of neighbours: energy of high frequencies."""
    return (images.diff(dim=1).square().mean() + images.diff(dim=2).square().mean()).item()


# Reproducible


def test_same_seed_gives_the_same_album(batch):
    again = SyntheticPhotographs(SEED).generate(2 * CHUNK)
    assert torch.equal(batch.images, again.images)
    assert torch.equal(batch.histograms, again.histograms)
    assert batch.captions == again.captions


def test_a_photograph_does_not_depend_on_its_batch(batch):
    start, n = CHUNK - 5, 12  # across the border of two chunks
    part = SyntheticPhotographs(SEED).generate(n, start=start)
    assert torch.equal(part.images, batch.images[start : start + n])
    assert torch.equal(part.histograms, batch.histograms[start : start + n])
    assert torch.equal(part.means, batch.means[start : start + n])
    assert part.captions == batch.captions[start : start + n]
    for name, values in part.factors.items():
        assert torch.equal(values, batch.factors[name][start : start + n]), name


def test_global_random_state_is_neither_read_nor_changed(batch):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = SyntheticPhotographs(SEED).generate(CHUNK)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.images, batch.images[:CHUNK])


def test_other_seeds_and_other_places_give_other_photographs(batch):
    other = SyntheticPhotographs(SEED + 1).generate(CHUNK)
    assert not torch.equal(other.images, batch.images[:CHUNK])
    assert not torch.equal(batch.images[:CHUNK], batch.images[CHUNK:])
    assert len({image.numpy().tobytes() for image in batch.images}) == len(batch)


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="n must be at least 1"):
        SyntheticPhotographs(0).generate(0)
    with pytest.raises(ValueError, match="start=-1"):
        SyntheticPhotographs(0).generate(1, start=-1)
    with pytest.raises(ValueError, match="seed must not be negative"):
        SyntheticPhotographs(-1)
    with pytest.raises(ValueError, match="raters must be between 1 and"):
        RaterPopulation(0, raters=0)


# Well-formed


def test_shapes_and_ranges(batch):
    n = len(batch)
    assert batch.images.shape == (n, 64, 64, 3) and batch.images.dtype == torch.uint8
    assert batch.histograms.shape == (n, 10) and len(batch.captions) == n
    assert batch.means.shape == (n,) and batch.means.min() >= 1 and batch.means.max() <= 10
    tuples = {
        "time": TIMES,
        "land": LANDS,
        "subject": SUBJECTS,
        "color": COLORS,
        "placement": PLACEMENTS,
        "cast": CASTS,
    }
    for name, values in tuples.items():
        assert 0 <= batch.factors[name].min() and batch.factors[name].max() < len(values), name
    for name, values in batch.factors.items():
        assert values.shape == (n,) and torch.isfinite(values.float()).all(), name


def test_every_category_appears():
    factors = draw_factors(2000, torch.Generator().manual_seed(0))
    for name, values in {"time": TIMES, "land": LANDS, "subject": SUBJECTS, "color": COLORS}.items():
        assert factors[name].unique().tolist() == list(range(len(values))), name
    assert (factors["saturation"] == 0).float().mean().item() == pytest.approx(0.12, abs=0.03)


def test_histograms_hold_one_vote_a_rater(batch):
    assert (batch.histograms.sum(1) == 80).all()
    few = SyntheticPhotographs(SEED, raters=5).generate(3)
    assert few.histograms.sum(1).tolist() == [5, 5, 5]
    values = torch.tensor(SCORE_VALUES, dtype=torch.float32)
    torch.testing.assert_close(few.means, few.histograms.float() @ values / 5)


def test_ratings_spread_over_the_scale(batch):
    assert 4 < batch.means.mean() < 6.5
    assert 0.8 < batch.means.std() < 2.0
    assert (batch.histograms.sum(0) > 0).all()


def test_dataset_has_the_schema_of_ratings(batch):
    part = SyntheticPhotographs(SEED).generate(5, start=3)
    dataset = to_dataset(part, split="validation")
    assert dataset.column_names == ["image", "distribution", "mean", "std", "n_votes", "split", "key"]
    assert dataset["key"][:2] == ["synthetic-7-000003", "synthetic-7-000004"]
    assert set(dataset["split"]) == {"validation"} and set(dataset["n_votes"]) == {80}
    for row, image, mean in zip(dataset, part.images, part.means, strict=True):
        decoded = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert decoded.format == "PNG" and decoded.tobytes() == image.numpy().tobytes()
        shares = torch.tensor(row["distribution"])
        values = torch.tensor(SCORE_VALUES, dtype=torch.float32)
        assert shares.sum().item() == pytest.approx(1, abs=1e-6)
        assert row["mean"] == pytest.approx(mean.item(), abs=1e-5)
        variance = (shares * (values - row["mean"]) ** 2).sum().item()
        assert row["std"] == pytest.approx(variance**0.5, abs=1e-5)


def test_unrated_dataset_has_no_labels(batch):
    part = SyntheticPhotographs(SEED).generate(2)
    unrated, rated = to_dataset(part, rated=False), to_dataset(part)
    assert unrated.features == rated.features
    assert score_values_of(unrated) == score_values_of(rated) == SCORE_VALUES
    assert unrated["key"][:] == rated["key"][:]
    for column in ("distribution", "mean", "std", "n_votes"):
        assert unrated[column][:] == [None, None]


# Captions


def test_captions_do_not_know_the_rating(batch):
    other = SyntheticPhotographs(SEED, rating_seed=99).generate(len(batch))
    assert not torch.equal(other.histograms, batch.histograms)
    assert other.captions == batch.captions
    assert torch.equal(other.images, batch.images)
    judging = (
        "good bad best worst beautiful ugly nice great poor perfect excellent lovely stunning score rating pretty"
    )
    words = {word.strip(",") for caption in batch.captions for word in caption.split()}
    assert not words & set(judging.split())


def test_captions_name_what_is_there(batch):
    bird, house = ({"bird", "gull"}, {"house", "cottage", "hut"})
    for subject, names in ((SUBJECTS.index("bird"), bird), (SUBJECTS.index("house"), house)):
        for row in range(len(batch)):
            said = bool(names & {word.strip(",") for word in batch.captions[row].split()})
            assert said == (batch.factors["subject"][row].item() == subject), batch.captions[row]
    monochrome = [row for row in range(len(batch)) if batch.factors["saturation"][row] == 0]
    assert monochrome and not any("vivid" in batch.captions[row] for row in monochrome)


# Factors move pixels


def test_exposure_brightens():
    dark, normal, bright = (take(exposure=stops).mean() for stops in (-1.0, 0.0, 1.0))
    assert dark + 0.08 < normal < bright - 0.08


def test_blur_and_noise_move_detail():
    plain = detail(take())
    assert detail(take(blur=1.5)) < 0.5 * plain
    assert detail(take(noise=0.06)) > 2 * plain


def test_contrast_spreads_and_saturation_colours():
    assert take(contrast=1.5).std() > 1.2 * take(contrast=0.7).std()
    chroma = [take(saturation=factor) for factor in (0.0, 0.5, 1.5)]
    grey, pale, vivid = ((image.amax(3) - image.amin(3)).mean() for image in chroma)
    assert grey == 0 and pale < 0.6 * vivid


def test_vignette_darkens_corners_only():
    plain, dark = take(), take(vignette=1.0)
    assert dark[:, :6, :6].mean() < 0.8 * plain[:, :6, :6].mean()
    torch.testing.assert_close(dark[:, 28:36, 28:36], plain[:, 28:36, 28:36])


def test_casts_shift_their_channel():
    def shares(cast: str) -> torch.Tensor:
        mean = take(cast=CASTS.index(cast), cast_strength=0.8).mean((0, 1, 2))
        return mean / mean.sum()

    plain = shares("none")
    assert shares("warm")[0] > plain[0] and shares("warm")[2] < plain[2]
    assert shares("cool")[2] > plain[2]
    assert shares("green")[1] > plain[1]


def test_night_is_darker_and_sunset_redder_than_day():
    images = {name: take(time=TIMES.index(name)) for name in ("day", "sunset", "night")}
    assert images["night"].mean() < 0.6 * images["day"].mean()
    redness = {name: (image[..., 0] - image[..., 2]).mean() for name, image in images.items()}
    assert redness["sunset"] > redness["day"] + 0.1


def test_tilt_moves_the_horizon_and_clutter_adds_things():
    assert (take(tilt=10.0) - take()).abs().mean() > 0.02
    changed = (take(clutter=5) - take()).abs().amax(3) > 0.1
    assert 0.005 < changed.float().mean() < 0.3


def test_blur_keeps_a_flat_image_flat_up_to_its_borders():
    flat = torch.full((2, 3, 64, 64), 0.4)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([0.0, 2.5])), flat)


# Ratings respond as documented


def mean_latent(**changes: float) -> float:
    return latent_score(neutral_factors(512, **changes)).mean().item()


def test_technique_is_an_inverted_u_whose_top_depends_on_the_scene():
    for extreme in (-1.2, 1.2):
        assert mean_latent(exposure=extreme) < mean_latent() - 0.5
    sunset, night = TIMES.index("sunset"), TIMES.index("night")
    assert mean_latent(time=sunset, exposure=-0.45) > mean_latent(time=sunset, exposure=0.35)
    assert mean_latent(time=night, exposure=0.35) > mean_latent(time=night, exposure=-0.45)
    monochrome = {"saturation": 0.0, "time": TIMES.index("day")}
    assert mean_latent(**monochrome, contrast=1.4) > mean_latent(**monochrome, contrast=1.0)


@pytest.mark.parametrize("flaw", [{"blur": 1.6}, {"noise": 0.06}, {"tilt": 12.0}, {"clutter": 5}, {"placement": 2}])
def test_flaws_cost(flaw):
    assert mean_latent(**flaw) < mean_latent() - 0.15


def test_light_and_land_interact():
    city, day, night = LANDS.index("city"), TIMES.index("day"), TIMES.index("night")
    interaction = PARTS.index("interaction")

    def part(**changes: float) -> float:
        return rating_parts(neutral_factors(512, clouds=0.0, **changes))[:, interaction].mean().item()

    assert part(land=city, time=night) > part(land=city, time=day) + 0.5
    grass = LANDS.index("grass")
    assert part(land=grass, time=night) < part(land=grass, time=day)


def test_light_and_content_weigh_more_than_geometry():
    parts = rating_parts(draw_factors(4000, torch.Generator().manual_seed(0)))
    spread = dict(zip(PARTS, parts.std(0).tolist(), strict=True))
    assert spread["content"] > 1.5 * spread["composition"]
    assert (parts[:, 2] + parts[:, 4]).std() > spread["technique"]


def test_votes_follow_the_latent_score_and_two_panels_agree(batch):
    other = SyntheticPhotographs(SEED, rating_seed=99).generate(len(batch))
    assert srcc(latent_score(batch.factors).tolist(), batch.means.tolist()) > 0.95
    assert srcc(batch.means.tolist(), other.means.tolist()) > 0.95


# The tiny CLIP


def test_tokenizer_round_trip_and_limits(tmp_path):
    tokenizer = WordTokenizer.from_captions(["a red tree, at dusk", "a boat"])
    ids = tokenizer(["a red boat", "a, zebra"])
    assert ids.shape == (2, 5) and ids[1, -1] == 0 and ids[1, 2] == tokenizer.vocabulary["<unk>"]
    tokenizer.save_pretrained(tmp_path)
    assert WordTokenizer.from_pretrained(tmp_path).vocabulary == tokenizer.vocabulary
    with pytest.raises(ValueError, match="at most 46 words, got 50"):
        tokenizer(["tree " * 50])


def test_patch_dropout_keeps_the_class_token_and_half_of_the_patches():
    tokens = torch.arange(65.0).repeat(3, 1)[..., None].expand(-1, -1, 4)
    kept = PatchDropout(torch.Generator().manual_seed(0))(None, (), tokens)[..., 0]
    assert kept.shape == (3, 33) and (kept[:, 0] == 0).all()
    assert all(len(row.unique()) == 33 for row in kept)


def test_recall_counts_the_own_caption_among_the_nearest():
    eye = torch.eye(4)
    assert recall_at(eye, eye, (1,)) == {1: 1.0}
    assert recall_at(eye, eye.roll(1, 0), (1, 4)) == {1: 0.0, 4: 1.0}


def test_pretraining_learns_is_reproducible_and_leaves_the_model_whole(batch):
    tokenizer = WordTokenizer.from_captions(batch.captions)
    ids = tokenizer(batch.captions)
    mean, std = torch.full((3,), 0.45), torch.full((3,), 0.25)
    models, losses = [], []
    for _ in range(2):
        torch.manual_seed(0)
        model = build_tiny_clip(len(tokenizer.vocabulary))
        run = pretrain(model, batch.images, ids, mean, std, steps=8, batch_size=32)
        assert run["steps"] == 8 and run["passes"] == 2.0
        models.append(model)
    for name, weight in models[0].state_dict().items():
        assert torch.equal(weight, models[1].state_dict()[name]), name
    torch.manual_seed(0)
    pixels = to_pixel_values(batch.images[:32], mean, std)
    with torch.no_grad():
        losses = [
            contrastive_loss(model, pixels, ids[:32]) for model in (build_tiny_clip(len(tokenizer.vocabulary)), model)
        ]
    assert losses[1] < losses[0] - 0.1
    assert not model.vision_model.embeddings._forward_hooks and not model.training
    assert model.config._attn_implementation != "eager"


def test_pretraining_wants_one_budget_and_enough_images(batch):
    model, mean = build_tiny_clip(10), torch.zeros(3)
    ids = torch.zeros(len(batch), 3, dtype=torch.long)
    for budget in ({}, {"minutes": 1.0, "steps": 1}, {"steps": 0}, {"minutes": -1.0}):
        with pytest.raises(ValueError, match="either minutes or steps"):
            pretrain(model, batch.images, ids, mean, mean + 1, **budget)
    with pytest.raises(ValueError, match="at most the number of images, 128, got 500"):
        pretrain(model, batch.images, ids, mean, mean + 1, steps=1, batch_size=500)


@pytest.fixture(scope="module")
def shipped():
    path = tiny_clip_path()
    return path, CLIPModel.from_pretrained(path, dtype=torch.float32).eval()


def test_shipped_weights_are_small_and_load_as_a_vision_tower(shipped, batch):
    path, model = shipped
    assert sum(file.stat().st_size for file in path.iterdir()) < 3_500_000
    vision = CLIPVisionModelWithProjection.from_pretrained(path, dtype=torch.float32).eval()
    assert sum(p.numel() for p in vision.parameters()) < 1_500_000
    processor = AutoImageProcessor.from_pretrained(path)
    images = [Image.fromarray(image.numpy()) for image in batch.images[:4]]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        embeds = vision(pixel_values=pixels).image_embeds
        expected = model.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(embeds, expected)
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    normalised = torch.nn.functional.normalize(embeds, dim=-1)
    torch.testing.assert_close(normalised, embed_images(model, batch.images[:4], mean, std), atol=1e-4, rtol=0)


def test_shipped_weights_reach_the_figures_on_record(shipped):
    path, model = shipped
    record = json.loads((path / "training.json").read_text())
    processor = json.loads((path / "preprocessor_config.json").read_text())
    test = SyntheticPhotographs(record["test_seed"]).generate(300)
    mean, std = torch.tensor(processor["image_mean"]), torch.tensor(processor["image_std"])
    features = embed_images(model, test.images, mean, std)
    with torch.no_grad():
        captions = embed_tokens(model, WordTokenizer.from_pretrained(path)(test.captions))
    recall = recall_at(features, captions)
    # Among 300 pairs the own caption has fewer rivals than among the 1,000 of the record.
    for k, value in record["image_to_text_recall_of_1000"].items():
        assert recall[int(k)] >= value
    weight, bias = ridge_probe(features[:150], test.means[:150], l2=100.0)
    assert srcc((features[150:].double() @ weight + bias).tolist(), test.means[150:].tolist()) > 0.25
