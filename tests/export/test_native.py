"""Native export: stock classifiers that answer as the checkpoints do, and checkpoints that no stock class can follow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from cskd_hf.cli import main
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.predict import load_scorer
from cskd_hf.export import native
from cskd_hf.export.native import ExportError, export_native
from cskd_hf.export.places import checked_output
from cskd_hf.export.stock import build_stock
from cskd_hf.models.configuration_cskd import CSKDConfig, CSKDModuleConfig
from cskd_hf.models.modeling_cskd import CSKDForFeatureAlignment, CSKDForImageAesthetics
from cskd_hf.models.module_cskd import register_encoder
from cskd_hf.training.encoder_survey import encoder_families, tiny_config

FAMILIES = encoder_families()
# Every family of encoders whose stock class can follow, with a pooling for which it does.
FOLLOWED = {
    "beit": "auto", "bit": "auto", "convnext": "auto", "convnextv2": "auto", "deit": "cls", "dinov2": "auto",
    "dinov2_with_registers": "auto", "donut-swin": "auto", "efficientnet": "auto", "focalnet": "auto",
    "hgnet_v2": "auto", "hiera": "auto", "ijepa": "auto", "levit": "auto", "mobilenet_v1": "auto",
    "mobilenet_v2": "auto", "mobilevit": "auto", "mobilevitv2": "auto", "pvt": "cls", "pvt_v2": "auto",
    "regnet": "auto", "resnet": "auto", "segformer": "auto", "siglip_vision_model": "mean", "swiftformer": "auto",
    "swin": "auto", "swinv2": "auto", "textnet": "mean", "vit": "cls", "vit_msn": "cls",
}  # fmt: skip


def make_checkpoint(folder, config, pooling="auto", side=64, **fields):
    """A scorer whose every weight, and every statistic of its norms, is random: nothing is equal by chance."""
    torch.manual_seed(0)
    model = CSKDForImageAesthetics(
        CSKDConfig(backbone_config=config, pooling=pooling, **{"score_values": [1, 2.5, 3, 4, 5], **fields})
    )
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.mul_(1 + 0.3 * torch.rand_like(value)).add_(0.05 * torch.randn_like(value))
    flips = config.model_type == "mobilevit"
    preprocessing = Preprocessing((side, side), (0.0,) * 3, (1.0,) * 3, flip_channels=True)
    processor = (preprocessing if flips else Preprocessing((side, side))).to_image_processor()
    processor.save_pretrained(folder)
    spread_scores(model, processor(photographs(), return_tensors="pt")["pixel_values"])
    model.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def spread_scores(model, pixels):
    """Make these images different to the model: statistics of its batch norms that are those of the images, and a head
    with which their histograms differ and none is a single bin."""
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.weight.uniform_(0.5, 1.5)
            module.momentum = 1.0
    model.train().encode(pixels)
    features = model.eval().encode(pixels)[0]
    weight = torch.randn(model.classifier.weight.shape)
    logits = features @ weight.T
    weight /= max(logits.std(0).mean(), 0.01 * logits.abs().mean())
    model.classifier.weight.copy_(weight)
    model.classifier.bias.copy_(-(features @ weight.T).mean(0))


def photographs(count=3):
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (4 + i, 5, 3), dtype=np.uint8) for i in range(count)]
    return [Image.fromarray(pixels).resize((90, 70 + 10 * i)) for i, pixels in enumerate(coarse)]


def assert_same_answers(checkpoint, exported, images):
    ours, stock = pipeline("image-aesthetics", model=checkpoint), pipeline("image-classification", model=str(exported))
    scores = []
    for image in images:
        expected, found = ours(image), stock(image, top_k=1000)
        found = {row["label"]: row["score"] for row in found}
        assert found.keys() == expected["distribution"].keys()
        assert found == pytest.approx(expected["distribution"], abs=1e-5)
        scores.append(sum(float(label) * p for label, p in found.items()))
        assert scores[-1] == pytest.approx(expected["score"], abs=1e-4)
    assert len({round(score, 4) for score in scores}) == len(images)  # the images are not all one to it


@pytest.mark.parametrize("family", FOLLOWED)
def test_stock_pipeline_gives_the_same_distribution(family, tmp_path):
    config = tiny_config(FAMILIES[family].config_class)
    checkpoint = make_checkpoint(tmp_path / "student", config, FOLLOWED[family])
    exported = export_native(checkpoint, tmp_path / "native")
    assert sorted(path.name for path in exported.iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    written = json.loads((exported / "config.json").read_text())
    assert written["architectures"][0] in dir(t) and "auto_map" not in written
    assert_same_answers(checkpoint, exported, photographs())


def test_mean_over_all_tokens_is_made_of_what_dinov2s_head_is_given(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "student", tiny_config(t.Dinov2Config), "mean")
    assert_same_answers(checkpoint, export_native(checkpoint, tmp_path / "native"), photographs())


@pytest.mark.parametrize("family", ["levit", "swiftformer"])
def test_norm_that_the_stock_class_adds_does_nothing(family, tmp_path):
    """A batch norm with new statistics would scale by 1 - 5e-6, which large logits show."""
    checkpoint = make_checkpoint(tmp_path / "student", tiny_config(FAMILIES[family].config_class))
    model, preprocessing = load_scorer(checkpoint)
    pixels = native.probe_pixels(preprocessing)
    with torch.no_grad():
        pooled = model.eval().encode(pixels)[0].double()
    given = build_stock(model, pixels[:1]).head_input(pixels).double()
    assert (given / pooled).mean().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("architecture", ["mobilenetv3_small_050", "resnet18"])
def test_timm_models(architecture, tmp_path):
    pytest.importorskip("timm")
    checkpoint = make_checkpoint(tmp_path / "student", t.TimmWrapperConfig(architecture=architecture))
    assert_same_answers(checkpoint, export_native(checkpoint, tmp_path / "native"), photographs())


@pytest.mark.parametrize("family", ["vit", "siglip_vision_model", "swin", "hiera", "dinov2"])
def test_other_image_size_than_the_encoders(family, tmp_path):
    # The stock pipeline does not interpolate position embeddings: the classifier is made for this size.
    config = tiny_config(FAMILIES[family].config_class)
    checkpoint = make_checkpoint(tmp_path / "student", config, FOLLOWED[family], side=128)
    assert_same_answers(checkpoint, export_native(checkpoint, tmp_path / "native"), photographs())


@pytest.mark.parametrize(
    ("config", "pooling", "reason"),
    [
        (tiny_config(t.ViTConfig), "auto", "ViTModel of model_type 'vit', pooling 'auto'.*pooling 'cls'"),
        (tiny_config(t.ConvNextConfig), "mean", "it is given that of pooling 'pooler'"),
        (tiny_config(t.CLIPVisionConfig), "auto", "CLIPForImageClassification .* mean of the patch tokens"),
        (tiny_config(t.SiglipVisionConfig), "auto", "SiglipForImageClassification .* pooling 'mean'"),
        (tiny_config(t.Siglip2VisionConfig), "mean", "takes packed patches"),
        (tiny_config(t.CvtConfig), "auto", "parts that the checkpoint lacks: 'layernorm'"),
        (tiny_config(FAMILIES["pp_lcnet"].config_class), "auto", "no attribute 'logits'"),
        (tiny_config(t.BlipVisionConfig), "auto", "BlipVisionModel.*no image classifier of this encoder"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_what_no_stock_class_does_is_refused_by_name(config, pooling, reason, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "student", config, pooling)
    with pytest.raises(ExportError, match=reason):
        export_native(checkpoint, tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_module_of_ones_own_is_refused(tmp_path):
    register_encoder("tests-linear", _own)
    config = CSKDModuleConfig(factory="tests-linear", image_size=64)
    checkpoint = make_checkpoint(tmp_path / "student", config)
    with pytest.raises(ExportError, match="a module of one's own"):
        export_native(checkpoint, tmp_path / "native")


def _own() -> torch.nn.Module:
    return torch.nn.Conv2d(3, 8, 16, 16)


def test_wrong_classifier_is_never_kept(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path / "student", tiny_config(t.ViTConfig), "mean")
    monkeypatch.setattr(native, "head_shares", lambda *args: (1.0,))
    with pytest.raises(ExportError, match="the saved ViTForImageClassification gives probabilities that differ by"):
        export_native(checkpoint, tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_what_is_lost_is_said_and_half_precision_is_read(tmp_path, caplog):
    config = tiny_config(t.ResNetConfig)
    checkpoint = make_checkpoint(tmp_path / "student", config, attributes={"color": [1, 5]}, provenance={"seed": 3})
    CSKDForImageAesthetics.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(checkpoint)
    exported = export_native(checkpoint, tmp_path / "native")
    assert "color" in caplog.text
    config = t.AutoConfig.from_pretrained(exported)
    assert (config.score_values, config.provenance) == ([1, 2.5, 3, 4, 5], {"seed": 3})
    assert {value.dtype for value in load_file(exported / "model.safetensors").values()} == {
        torch.float32,
        torch.int64,
    }


def test_phase_1_checkpoint_and_existing_folder_are_refused(tmp_path):
    CSKDForFeatureAlignment(CSKDConfig(backbone_config=tiny_config(t.ResNetConfig))).save_pretrained(tmp_path / "p1")
    with pytest.raises(ValueError, match="phase-1 checkpoint"):
        export_native(tmp_path / "p1", tmp_path / "native")
    checkpoint = make_checkpoint(tmp_path / "student", tiny_config(t.ResNetConfig))
    export_native(checkpoint, tmp_path / "native")
    (tmp_path / "native" / "mine.txt").touch()
    with pytest.raises(ValueError, match="exists"):
        export_native(checkpoint, tmp_path / "native")
    assert (tmp_path / "native" / "mine.txt").exists()
    export_native(checkpoint, tmp_path / "native", overwrite=True)
    assert not (tmp_path / "native" / "mine.txt").exists()


@pytest.mark.parametrize("kind", ["itself", "above", "here", "another", "encoder", "photographs", "a file"])
def test_nothing_but_an_export_is_replaced(kind, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    checkpoint = Path(make_checkpoint(tmp_path / "runs" / "student", tiny_config(t.ResNetConfig)))
    output = {"itself": checkpoint, "above": checkpoint.parent}.get(kind, tmp_path / "output")
    if kind == "a file":
        output.touch()
    elif kind == "another":
        shutil.copytree(checkpoint, output)
    elif kind == "encoder":
        tiny_config(t.ResNetConfig).save_pretrained(output)
    elif kind in ("here", "photographs"):
        output.mkdir()
        (output / ("export.json" if kind == "here" else "photo.jpg")).touch()
    if kind == "here":
        monkeypatch.chdir(output)
        output = "."
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="cannot be replaced|holds no export"):
        checked_output(checkpoint, output, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


WITHOUT = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cskd_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from transformers import pipeline
pipe = pipeline("image-classification", model=sys.argv[1], trust_remote_code=False)
rows = [pipe(path, top_k=1000) for path in sys.argv[2:]]
assert "cskd_hf" not in sys.modules
print(json.dumps([{row["label"]: row["score"] for row in found} for found in rows]))
"""


def test_command_and_a_process_without_the_package(tmp_path, capsys):
    checkpoint = make_checkpoint(tmp_path / "student", tiny_config(t.MobileNetV2Config))
    assert main(["export", checkpoint, "--format", "native", "--output", str(tmp_path / "native")]) == 0
    assert "MobileNetV2ForImageClassification" in capsys.readouterr().out
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for path, image in zip(paths, photographs()):
        image.save(path)
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "native"), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ours = pipeline("image-aesthetics", model=checkpoint)
    for path, found in zip(paths, json.loads(done.stdout)):
        assert found == pytest.approx(ours(path)["distribution"], abs=1e-5)

    assert main(["export", checkpoint, "--format", "native", "--output", str(tmp_path / "native")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    vit = make_checkpoint(tmp_path / "vit", tiny_config(t.ViTConfig))
    assert main(["export", vit, "--format", "native", "--output", str(tmp_path / "no")]) == 2
    assert "pooling 'cls'" in capsys.readouterr().err


def test_images_that_the_stock_pipeline_reads_otherwise(tmp_path):
    """What the docstring says of alpha and 16 bits is so."""
    checkpoint = make_checkpoint(tmp_path / "student", tiny_config(t.ResNetConfig))
    exported = export_native(checkpoint, tmp_path / "native")
    stock = pipeline("image-classification", model=str(exported), top_k=1000)
    photograph = photographs(1)[0]
    clear = photograph.copy()
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    assert stock(clear) == stock(photograph)  # dropped
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    cut = Image.fromarray(np.minimum(ramp, 255).astype(np.uint8)).convert("RGB")
    assert stock(str(tmp_path / "deep.png")) == stock(cut)
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph.save(tmp_path / "turned.png", exif=turned)
    assert_same_answers(checkpoint, exported, [str(tmp_path / "turned.png"), photographs(2)[1]])


def test_real_photographs(data_folder, tmp_path):
    paths = sorted((data_folder / "oasis_beauty").rglob("*.jpg"))[:3]
    assert len(paths) == 3
    checkpoint = make_checkpoint(tmp_path / "student", tiny_config(t.MobileNetV2Config))
    exported = export_native(checkpoint, tmp_path / "native")
    assert_same_answers(checkpoint, exported, [str(path) for path in paths])
