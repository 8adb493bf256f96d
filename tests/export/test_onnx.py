"""ONNX graphs: the scores of the checkpoint for pictures of any size, all that a score needs, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

from cskd_hf.cli import main  # noqa: E402
from cskd_hf.data.views import Preprocessing  # noqa: E402
from cskd_hf.export import onnx_graphs  # noqa: E402
from cskd_hf.export.image_graph import (  # noqa: E402
    UnfitProcessor,
    channels_first,
    check_plan,
    image_graph,
    plan_of,
    probe_images,
    processed,
)
from cskd_hf.export.native import ExportError  # noqa: E402
from cskd_hf.export.onnx_graphs import export_onnx  # noqa: E402
from cskd_hf.models.configuration_cskd import CSKDConfig, CSKDModuleConfig  # noqa: E402
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics  # noqa: E402
from cskd_hf.models.module_cskd import register_encoder  # noqa: E402
from cskd_hf.scoring.engine import load_engine  # noqa: E402
from cskd_hf.scoring.errors import ScoringError  # noqa: E402
from cskd_hf.scoring.onnx_metadata import read_metadata  # noqa: E402
from tiny_scorers import save_scorer  # noqa: E402

CALIBRATION = {"quantiles": [1.0, 2.5, 3.0, 3.5, 5.0], "map": {"scores": [2.0, 4.0], "ratings": [1.0, 5.0]}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With attributes, a calibration, and a local path in its provenance."""
    folder = save_scorer(tmp_path_factory.mktemp("made") / "student", attributes={"sharp": [1, 5]})
    file = Path(folder, "config.json")
    config = json.loads(file.read_text()) | {"calibration": CALIBRATION, "provenance": {"ratings": f"{folder}/a.csv"}}
    file.write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(checkpoint, tmp_path_factory.mktemp("exported") / "onnx")


@pytest.fixture
def album(tmp_path: Path) -> list[str]:
    """Files of unlike pictures and sizes."""
    rng = np.random.default_rng(3)
    (tmp_path / "album").mkdir()
    for number in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 3 + number, 3), dtype=np.uint8))
        coarse.resize((50 + 37 * number, 200 - 25 * number), Image.Resampling.BICUBIC).save(
            tmp_path / "album" / f"{number}.png"
        )
    return sorted(str(path) for path in (tmp_path / "album").iterdir())


def test_both_graphs_give_the_scores_of_the_checkpoint(checkpoint: str, exported: Path, album: list[str]):
    torch_engine = load_engine(checkpoint)
    expected = [torch_engine.score(torch_engine.prepare(path)[None], embeds=True)[0] for path in album]
    assert np.ptp([row["score"] for row in expected]) > 0.2  # the pictures are not all one to it
    whole = ort.InferenceSession(str(exported / "pipeline.onnx"), providers=["CPUExecutionProvider"])
    for path, row in zip(album, expected):
        found = dict(
            zip(
                [output.name for output in whole.get_outputs()],
                whole.run(None, {"image": channels_first(Image.open(path))}),
            )
        )
        assert found["score"][0] == pytest.approx(row["score"], abs=4e-3)  # 1e-3 of the scale
        assert found["attributes"][0, 0] == pytest.approx(row["attributes"]["sharp"], abs=4e-3)
    for file in (exported, exported / "model.onnx", exported / "pipeline.onnx"):
        engine = load_engine(str(file))
        pixels = np.stack([engine.prepare(path) for path in album])
        for row, found in zip(expected, engine.score(pixels, embeds=True)):
            assert found["provenance"] == {"ratings": "a.csv"}
            assert found.keys() == row.keys() and found["distribution"].keys() == row["distribution"].keys()
            for name in (
                "score",
                "score_std",
                "percentile",
                "calibrated_score",
                "attributes",
                "distribution",
                "scale",
            ):
                assert found[name] == pytest.approx(row[name], abs=1e-4), name
            assert np.abs(found["embeds"] - row["embeds"]).max() < 1e-4


def test_a_batch_of_pictures_of_one_size(exported: Path):
    session = ort.InferenceSession(str(exported / "pipeline.onnx"), providers=["CPUExecutionProvider"])
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 75, 61), dtype=np.uint8)
    together = session.run(["score"], {"image": pictures})[0]
    alone = [session.run(["score"], {"image": pictures[i : i + 1]})[0][0] for i in range(3)]
    assert together == pytest.approx(alone, abs=1e-5) and np.ptp(alone) > 1e-3


def test_what_the_files_say_of_themselves(checkpoint: str, exported: Path):
    assert sorted(path.name for path in exported.iterdir()) == ["export.json", "model.onnx", "pipeline.onnx"]
    report = json.loads((exported / "export.json").read_text())
    assert report["format"] == "onnx" and max(report["difference"].values()) < 1e-3
    for name in ("model.onnx", "pipeline.onnx"):
        known = read_metadata(exported / name)
        assert known["score_values"] == [1, 2, 3, 4, 5] and known["attributes"] == {"sharp": [1, 5]}
        assert known["calibration"] == CALIBRATION and known["provenance"] == {"ratings": "a.csv"}
        assert known["preprocessing"]["size"] == {"height": 32, "width": 32}
        content = (exported / name).read_bytes()
        for place in (checkpoint, os.path.dirname(onnx_graphs.__file__), os.path.dirname(torch.__file__)):
            assert place.encode() not in content


def test_the_command_scores_without_the_torch_weights(exported: Path, album: list[str], tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise AssertionError("torch weights were loaded")

    monkeypatch.setattr(t.PreTrainedModel, "from_pretrained", classmethod(refuse))
    alone = shutil.copy(exported / "pipeline.onnx", tmp_path / "scorer.onnx")
    tables = []
    for number, model in enumerate((exported, alone)):
        output = tmp_path / f"scores-{number}.jsonl"
        assert main(["score", "--model", str(model), *album, "--output", str(output), "--quiet"]) == 0
        tables.append([json.loads(line)["score"] for line in output.read_text().splitlines()])
    assert tables[0] == pytest.approx(tables[1], abs=1e-5) and len(tables[0]) == len(album)


PROCESSORS = {
    "fixed": Preprocessing((40, 56)).to_image_processor(),
    "fixed bilinear": Preprocessing((40, 56), interpolation="bilinear").to_image_processor(),
    "flipped": Preprocessing((32, 32), (0.0,) * 3, (1.0,) * 3, flip_channels=True).to_image_processor(),
    "short side and crop": t.CLIPImageProcessor(size={"shortest_edge": 50}, crop_size={"height": 41, "width": 32}),
    "enlarged and crop": t.ConvNextImageProcessor(size={"shortest_edge": 56}),
    "ConvNeXt, whole": t.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "LeViT": t.LevitImageProcessor(size={"shortest_edge": 42}, crop_size={"height": 40, "width": 40}),
    "std twice": t.EfficientNetImageProcessor(size={"height": 48, "width": 48}),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_image_graph_makes_what_the_processor_makes(name: str):
    processor = PROCESSORS[name]
    plan = plan_of(processor)
    assert check_plan(plan, processor) <= 2
    session = ort.InferenceSession(image_graph(plan).SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(5)
    for width, height in ((57, 300), (640, 77), (90, 90)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        pixels = session.run(None, {"image": channels_first(image)})[0][0]
        gap = np.abs(pixels - processed(processor, image)) / np.abs(np.reshape(plan.factor, (3, 1, 1)))
        assert gap.max() < 1.01 and (gap > 0.5).mean() < 0.01


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (t.ViTImageProcessor(resample=0), "filter NEAREST; only BILINEAR and BICUBIC"),
        (t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 48, "width": 48}), "it pads images"),
        (t.CLIPImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}), "only a height and width"),
    ],
)
def test_processors_that_no_graph_can_follow(processor, reason: str):
    with pytest.raises(UnfitProcessor, match=reason):
        plan_of(processor)


def test_a_processor_of_other_habits_is_found_out():
    class Mirrored(type(PROCESSORS["fixed"])):
        def resize(self, image, *args, **kwargs):
            return super().resize(image, *args, **kwargs)[..., ::-1]

    processor = Mirrored(size={"height": 32, "width": 32})
    with pytest.raises(UnfitProcessor, match="Mirrored gives pixels that differ .* of 255 levels"):
        check_plan(plan_of(processor), processor)


def test_an_image_processor_without_one_shape(checkpoint: str, tmp_path: Path):
    own = Path(shutil.copytree(checkpoint, tmp_path / "own"))
    t.CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False).save_pretrained(own)
    with pytest.raises(ExportError, match="CLIPImageProcessor.* unlike shapes; set a height and width, or a crop"):
        export_onnx(own, tmp_path / "out")


class Moody(torch.nn.Module):
    """Chooses its way by the values of the pixels."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3)) if pixels.mean() > 0 else pixels.amax((2, 3))


def test_an_encoder_that_cannot_be_exported_is_named(tmp_path: Path):
    register_encoder("moody", Moody)
    config = CSKDConfig(backbone_config=CSKDModuleConfig(factory="moody", image_size=32), score_values=[1, 2, 3])
    CSKDForImageAesthetics(config).save_pretrained(tmp_path / "student")
    Preprocessing((32, 32)).to_image_processor().save_pretrained(tmp_path / "student")
    with pytest.raises(ExportError, match="as ONNX .encoder CSKDModule .*torch.onnx.export fails with"):
        export_onnx(tmp_path / "student", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_graph_of_other_scores_is_refused_and_leaves_nothing(checkpoint: str, tmp_path: Path, monkeypatch):
    forward = onnx_graphs.ScorerModule.forward

    def off(self, pixel_values):
        distribution, score, *further = forward(self, pixel_values)
        return distribution, score + 0.01, *further

    monkeypatch.setattr(onnx_graphs.ScorerModule, "forward", off)
    with pytest.raises(ExportError, match=r"model.onnx gives scores that differ by up to 0.0025 of the scale"):
        export_onnx(checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_refusals_before_any_work(checkpoint: str, tmp_path: Path, monkeypatch, capsys):
    export = ["export", checkpoint, "--output", str(tmp_path), "--format"]
    assert main([*export, "onnx"]) == 2
    assert "exists; give another output, or --overwrite" in capsys.readouterr().err
    for option, value in (("--ratings", "a.csv"), ("--split", "test"), ("--limit", "0")):
        assert main([*export, "onnx", option, value]) == 2
        assert f"{option} is an option of --format int8" in capsys.readouterr().err
    assert main([*export, "int8", "--calibration-images", ".", "--split", "test"]) == 2
    assert "--split and --image-dir are of --ratings" in capsys.readouterr().err
    assert main([*export, "int8"]) == 2
    assert "needs --calibration-images DIR" in capsys.readouterr().err
    monkeypatch.setattr(onnx_graphs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx, onnxscript, onnxruntime; .*cskd_hf\[onnx\]"):
        export_onnx(checkpoint, tmp_path / "out")


def test_files_that_are_no_scorer(tmp_path: Path):
    (tmp_path / "other.onnx").write_bytes(image_graph(plan_of(PROCESSORS["fixed"])).SerializeToString())
    with pytest.raises(ScoringError, match="no score_values and preprocessing in its metadata"):
        load_engine(str(tmp_path / "other.onnx"))
    with pytest.raises(ScoringError, match="there is no .*gone.onnx"):
        load_engine(str(tmp_path / "gone.onnx"))


def test_probe_pictures_are_of_unlike_shapes():
    assert len({image.size for image in probe_images()}) == 4
