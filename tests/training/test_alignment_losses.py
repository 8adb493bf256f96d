"""Every loss through the command that uses it: what is saved, and what a resumed run does."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cskd_hf.cli import main
from cskd_hf.data.teacher_features import FeatureStoreError
from cskd_hf.data.views import Preprocessing
from cskd_hf.models.modeling_cskd import CSKDForFeatureAlignment
from cskd_hf.training.align import align
from cskd_hf.training.alignment_task import UNLABELLED, AlignmentTask
from cskd_hf.training.arguments import AlignSettings, FeatureSettings
from cskd_hf.training.loop import TrainingLoop
from cskd_hf.training.reference import ReferenceEncoder
from cskd_hf.training.settings import SettingsError
from cskd_hf.training.standardisation import FeatureStatistics
from cskd_hf.training.statistics import STATISTICS_FOLDER
from cskd_hf.training.stored_features import store_features


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def settings(folder: Path, encoder: str, clip: str, photographs: str, **changes: object) -> AlignSettings:
    return AlignSettings(**{
        "encoder": encoder, "reference": [clip], "images": [photographs], "output_dir": str(folder), "holdout": 6,
        "max_steps": 4, "batch_size": 8, "image_size": 32, "eval_every": 0, "save_every": 2, "cpu": True, "quiet": True,
        "keep": "last", **changes,
    })  # fmt: skip


def held_out_cosine(folder: Path, clip: str, photographs: str) -> float:
    """Of the saved model's aligned embeddings and the raw reference embeddings, on all photographs."""
    from cskd_hf.data.loading import plain_crops
    from cskd_hf.data.mixture import open_images

    model = CSKDForFeatureAlignment.from_pretrained(folder).eval()
    crops = plain_crops(open_images([photographs], 32, False), 32)
    with torch.no_grad():
        embeds = model(Preprocessing((32, 32))(crops)).aligned_embeds
    return torch.cosine_similarity(embeds, ReferenceEncoder.from_pretrained(clip)(crops)).mean().item()


@pytest.mark.parametrize("projector", ["linear", "mlp"])
@pytest.mark.parametrize("loss", ["phi_s", "phi_s_smooth_l1"])
def test_a_model_trained_on_standardised_targets_gives_raw_embeddings(
    tmp_path, vit_encoder, clip, photographs, projector, loss
):
    result = align(settings(
        tmp_path / "run", vit_encoder, clip, photographs, loss=[loss], projector=projector, max_steps=30, save_every=0,
    ))  # fmt: skip
    assert held_out_cosine(tmp_path / "run", clip, photographs) > 0.9
    statistics = FeatureStatistics.load(tmp_path / "run" / STATISTICS_FOLDER / "0.safetensors")
    assert statistics.count == 34 and "tiny-clip" in statistics.source
    assert result.metrics["loss"] < 1.5  # in units of the reference's variance; the mean alone gives 1


def test_saved_projector_gives_what_was_trained(vit_encoder, clip):
    """Before and after folding, to rounding, with two references of different spaces."""
    one = ReferenceEncoder.from_pretrained(clip, name="one")
    two = ReferenceEncoder.from_pretrained(vit_encoder_with_processor(vit_encoder), name="two")
    model = CSKDForFeatureAlignment.from_encoder(
        vit_encoder, reference_encoders=[{"name": r.name, "dim": r.dim} for r in (one, two)]
    )
    crops = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    statistics = {r.name: FeatureStatistics.compute([r(crops)]) for r in (one, two)}
    task = AlignmentTask(model, Preprocessing((32, 32)), (one, two), ["cosine", "phi_s"], crops, statistics=statistics)
    before = task.eval().evaluate()
    model.load_state_dict(task.exported(model.state_dict()))
    after = AlignmentTask(model, Preprocessing((32, 32)), (one, two), ["cosine", "mse"], crops).eval().evaluate()
    assert after["mean_cosine"] == pytest.approx(before["mean_cosine"], abs=1e-5)
    assert after["cosine"] == pytest.approx(before["cosine"], abs=1e-5)


def vit_encoder_with_processor(folder: str) -> str:
    Preprocessing((32, 32)).to_image_processor().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("loss", [["cosine", "token_cosine"], ["phi_s", "token_whitened_smooth_l1"]])
def test_resumed_run_is_the_unbroken_one(tmp_path, monkeypatch, encoder, clip, photographs, loss, stored):
    """With statistics and the token projection of its start, bit for bit."""
    store = {"features": str(tmp_path / "features")} if stored else {}

    def run(name: str, **changes: object) -> Path:
        align(settings(tmp_path / name, encoder, clip, photographs, loss=loss, token_grid=2, **store, **changes))
        return tmp_path / name

    whole = load_file(run("whole") / "model.safetensors")
    save = TrainingLoop._save

    def save_and_stop(self: TrainingLoop, folder: Path) -> None:
        save(self, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingLoop, "_save", save_and_stop)
        run("broken")
    if any("phi_s" in name for name in loss):
        # Resumed runs do not compute them again.
        monkeypatch.setattr(FeatureStatistics, "compute", None)
    broken = load_file(run("broken", resume=True) / "model.safetensors")
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    assert not any("token" in name for name in whole)


def test_weights_of_losses_and_references(vit_encoder, clip):
    references = tuple(ReferenceEncoder.from_pretrained(clip, name=name) for name in ("one", "two"))
    model = CSKDForFeatureAlignment.from_encoder(
        vit_encoder, reference_encoders=[{"name": r.name, "dim": r.dim} for r in references]
    )
    crops = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)

    def evaluate(**weights: list[float]) -> dict[str, float]:
        return AlignmentTask(
            model, Preprocessing((32, 32)), references, ["cosine", "mse"], crops, **weights
        ).eval().evaluate()  # fmt: skip

    equal, only_cosine = evaluate(), evaluate(loss_weights=[2.0, 0.5])
    assert equal["loss"] == pytest.approx(equal["cosine"] + equal["mse"], rel=1e-5)
    assert only_cosine["loss"] == pytest.approx(2 * equal["cosine"] + 0.5 * equal["mse"], rel=1e-5)
    first, second = evaluate(reference_weights=[1.0, 1e-9]), evaluate(reference_weights=[1e-9, 1.0])
    assert first["cosine"] != pytest.approx(second["cosine"], abs=1e-5)
    assert equal["cosine"] == pytest.approx((first["cosine"] + second["cosine"]) / 2, rel=1e-4)
    shared = evaluate(reference_weights=[3.0, 1.0])
    assert shared["cosine"] == pytest.approx((3 * first["cosine"] + second["cosine"]) / 4, rel=1e-4)


@pytest.mark.parametrize("family", ["cnn", "vit"])
@pytest.mark.parametrize("reference_family", ["cnn", "vit"])
def test_token_losses_from_and_to_any_kind_of_map(encoder, vit_encoder, clip, family, reference_family):
    student = {"cnn": encoder, "vit": vit_encoder}[family]
    if reference_family == "vit":
        reference = ReferenceEncoder.from_pretrained(clip)  # 4 x 4 patches
    else:
        Preprocessing((64, 64)).to_image_processor().save_pretrained(encoder)
        reference = ReferenceEncoder.from_pretrained(encoder)  # 2 x 2
    reference.use_tokens(3)
    model = CSKDForFeatureAlignment.from_encoder(
        student, reference_encoders=[{"name": reference.name, "dim": reference.dim}]
    )
    crops = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    losses = ["cosine", "token_cosine", "token_whitened_smooth_l1"]
    task = AlignmentTask(model, Preprocessing((32, 32)), (reference,), losses, crops)
    optimiser = torch.optim.AdamW(task.parameters(), 3e-3)
    values = []
    for _ in range(12):
        parts = task.train()({UNLABELLED: {"crops": crops}})
        parts["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        values.append({name: value.item() for name, value in parts.items()})
    assert all(values[-1][name] < values[0][name] for name in losses)


def test_reference_rows_come_apart_as_they_were_put_together(clip):
    from transformers import CLIPVisionModelWithProjection

    reference = ReferenceEncoder.from_pretrained(clip)
    crops = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    embeds, plain = reference(crops), reference.fingerprint()
    reference.use_tokens(2)
    rows = reference(crops)
    assert rows.shape == (3, 12 + 32 * 2 * 2) and reference.map_shape == (32, 2, 2)
    unpacked, feature_map = reference.unpack(rows)
    assert torch.equal(unpacked, embeds) and reference.fingerprint() != plain
    model = CLIPVisionModelWithProjection.from_pretrained(clip).eval()
    with torch.no_grad():
        hidden = model(pixel_values=reference.preprocessing(crops)).last_hidden_state
        tokens = model.vision_model.post_layernorm(hidden)[:, 1:].transpose(1, 2).reshape(3, 32, 4, 4)
    expected = tokens.reshape(3, 32, 2, 2, 2, 2).mean((3, 5))
    assert torch.allclose(feature_map, expected, atol=1e-5)


def test_a_reference_without_a_map_is_refused_for_token_losses():
    reference = ReferenceEncoder(torch.nn.Flatten(), Preprocessing((4, 4)), name="flat")
    with pytest.raises(ValueError, match="'flat' returns a feature alone"):
        reference.use_tokens(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loss", "token_cosine"], "compares tokens alone"),
        (["--loss", "cosine", "whitened_smooth_l1", "phi_s"], "asks one projection to meet two targets"),
        (["--loss", "cosine", "mse", "--loss-weights", "1"], "2 --loss need as many --loss-weights"),
        (["--loss", "cosine", "cosine"], "names one of them twice"),
        (["--loss", "cosine", "--loss-weights", "-1"], "must all be above 0"),
        (["--reference-weights", "1", "2"], "1 --reference need as many --reference-weights"),
        (["--loss", "cosine", "token_cosine", "--token-grid", "0"], "token_grid=0 must be at least 1"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(tmp_path, capsys, encoder, clip, photographs, options, message):
    base = ["align", "--encoder", encoder, "--reference", clip, "--images", photographs, "--output-dir", str(tmp_path)]
    assert main([*base, *options]) != 0
    assert message in capsys.readouterr().err


def test_statistics_of_another_reference_are_refused(tmp_path, vit_encoder, clip, photographs):
    run = settings(tmp_path / "run", vit_encoder, clip, photographs, loss=["phi_s"], max_steps=2)
    align(run)
    (tmp_path / "run" / "results.json").unlink()
    FeatureStatistics.compute([torch.randn(20, 12)], "another").save(
        tmp_path / "run" / STATISTICS_FOLDER / "0.safetensors"
    )
    with pytest.raises(SettingsError, match="holds statistics of another"):
        align(settings(tmp_path / "run", vit_encoder, clip, photographs, loss=["phi_s"], max_steps=2, resume=True))


def test_maps_are_stored_with_the_embeddings_and_read_by_the_run(tmp_path, encoder, clip, photographs):
    run = settings(
        tmp_path / "run", encoder, clip, photographs, loss=["cosine", "token_cosine"], token_grid=2, n_views=2,
        features=str(tmp_path / "features"),
    )  # fmt: skip
    (store,) = store_features(FeatureSettings(**asdict(run))).values()
    assert store.dim == 12 + 32 * 2 * 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.safetensors")}
    assert align(run).metrics["token_cosine"] > 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.safetensors")}
    with pytest.raises(FeatureStoreError, match="map="):
        align(replace(run, output_dir=str(tmp_path / "other"), token_grid=3))


def test_references_of_several_sizes_each_see_the_crop_in_their_own_way(
    tmp_path, encoder, vit_encoder, clip, photographs
):
    Preprocessing((48, 48)).to_image_processor().save_pretrained(encoder)
    align(settings(
        tmp_path / "run", vit_encoder, clip, photographs, reference=[clip, encoder], reference_weights=[3, 1],
        loss=["phi_s", "token_cosine"], loss_weights=[1, 0.5],
    ))  # fmt: skip
    model = CSKDForFeatureAlignment.from_pretrained(tmp_path / "run")
    assert [projector.out_features for projector in model.projectors] == [12, 16]
    assert len(list((tmp_path / "run" / STATISTICS_FOLDER).iterdir())) == 2
