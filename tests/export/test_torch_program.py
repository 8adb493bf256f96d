"""torch.export programs: the scores of the checkpoint in any batch, and at any size where the encoder takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as t

from cskd_hf.cli import main
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.predict import load_scorer
from cskd_hf.export import torch_program
from cskd_hf.export.native import ExportError
from cskd_hf.export.torch_program import TorchProgram, export_torch
from cskd_hf.models.configuration_cskd import CSKDConfig, CSKDModuleConfig
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics
from cskd_hf.models.module_cskd import register_encoder
from tiny_scorers import save_scorer


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_scores_of_the_checkpoint(family: str, tmp_path: Path, capsys):
    backbone = None
    if family == "vit":
        backbone = t.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
        )  # fmt: skip
    checkpoint = save_scorer(tmp_path / "student", backbone=backbone, attributes={"sharp": [1, 5]})
    if family == "resnet":  # of 32 x 32 pixels its last map is a single point, which torch takes for a case of its own
        Preprocessing(size=(64, 64)).to_image_processor().save_pretrained(checkpoint)
    assert main(["export", checkpoint, "--format", "torch-export", "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert ("height and width: any" in said) == (report["size"] == "any") == (family == "resnet")
    program, (model, _) = TorchProgram(tmp_path / "out"), load_scorer(checkpoint)
    sizes = [(64, 64), (64, 96), (41, 200)] if family == "resnet" else [(32, 32)]
    for batch, (height, width) in [(1, sizes[0]), (5, sizes[-1]), (2, sizes[len(sizes) // 2])]:
        pixels = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            expected = model.eval()(pixels)
        found = program(pixels)
        assert found.keys() == {"distribution", "score", "attributes", "pooler_output"}
        for name, value in found.items():
            assert torch.allclose(value, getattr(expected, name), atol=1e-5), name
    assert program.metadata["score_values"] == [1, 2, 3, 4, 5] and "provenance" in program.metadata


class Choosy(torch.nn.Module):
    """Chooses its way by the values of the pixels."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3)) if pixels.mean() > 0 else pixels.amax((2, 3))


def test_an_encoder_that_cannot_be_exported_is_named(tmp_path: Path):
    register_encoder("choosy", Choosy)
    config = CSKDConfig(backbone_config=CSKDModuleConfig(factory="choosy", image_size=32), score_values=[1, 2, 3])
    CSKDForImageAesthetics(config).save_pretrained(tmp_path / "student")
    Preprocessing((32, 32)).to_image_processor().save_pretrained(tmp_path / "student")
    with pytest.raises(ExportError, match="as torch-export .encoder CSKDModule of model_type 'cskd_module'"):
        export_torch(tmp_path / "student", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_program_of_other_scores_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch):
    checkpoint = save_scorer(tmp_path / "student")
    load = torch.export.load

    class Off:
        def __init__(self, program):
            self.program = program.module()

        def module(self):
            return lambda pixels: tuple(value + 0.01 for value in self.program(pixels))

    monkeypatch.setattr(torch_program.torch.export, "load", lambda file: Off(load(file)))
    with pytest.raises(ExportError, match="the saved program gives scores that differ by up to 0.0025 of the scale"):
        export_torch(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_folder_without_a_program(tmp_path: Path):
    with pytest.raises(ExportError, match="has no model.pt2; make it with"):
        TorchProgram(tmp_path)
