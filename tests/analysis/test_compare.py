from __future__ import annotations

import json
import re

import pytest
import torch
from PIL import Image
from transformers import AutoModel, Data2VecVisionConfig, ViTConfig, ViTModel

from cskd_hf.analysis.compare import Analysis, FeatureSummary, analyse, analyse_all, load_checkpoint, to_json
from cskd_hf.analysis.notes import closing_notes, table
from cskd_hf.cli import main
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.attention import LayerSummary
from cskd_hf.models.modeling_cskd import CSKDForFeatureAlignment, CSKDForImageAesthetics


def entry(name="a", *, rank=5.0, cosine=0.5, patches=0.5, heads=(10.0, 20.0), dim=8, **fields) -> Analysis:
    features = FeatureSummary(50, dim, rank, 8, cosine, patches, 0.4, [0.5, 0.5])
    layers = [LayerSummary(list(heads), [1.0, 2.0], 3.0, 15.0, [0.1, 0.3], [8, 8])] if heads else []
    return Analysis(name, "", "vit", 100, (32, 32), features, layers, **fields)


def test_figures_are_means_over_layers_and_heads():
    figures = entry().figures()
    expected = {
        "distance": 15,
        "distance_share": 1,
        "head_spread": 5,
        "entropy": 1.5,
        "entropy_share": 0.5,
        "elsewhere": 0.2,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert entry(heads=None).figures()["distance"] is None


@pytest.mark.parametrize(
    "after, verdict",
    [
        ({"rank": 7.0, "cosine": 0.3, "patches": 0.3, "heads": (5.0, 25.0)}, "4 point to relief from feature collapse, 0 away from it: relief, as"),
        ({"rank": 2.0, "cosine": 0.8}, "0 point to relief from feature collapse, 2 away from it: more collapse, the opposite"),
        ({"rank": 7.0, "cosine": 0.8}, "1 point to relief from feature collapse, 1 away from it: mixed"),
        ({"rank": 5.1, "cosine": 0.52}, "0 point to relief from feature collapse, 0 away from it: no change"),
        ({"rank": 7.0, "heads": None}, "Of 3 signs, 1 point to relief"),
    ],
)  # fmt: skip
def test_closing_note_follows_the_figures(after, verdict):
    notes = closing_notes([entry("before"), entry("after", **after)])
    assert notes[0].startswith("'after' against 'before': effective rank 5.0 -> ")
    assert verdict in notes[0]


def test_no_verdict_between_architectures():
    note = closing_notes([entry("one"), entry("other", dim=16, rank=9.0)])[0]
    assert "different architectures, so no verdict" in note and "paper" not in note


def test_pairs_may_be_chosen():
    found = [entry("a"), entry("b"), entry("c")]
    assert [note.split(":")[0] for note in closing_notes(found, [("b", "c")])[:1]] == ["'c' against 'b'"]
    assert len(closing_notes(found, [("b", "c")])) == len(closing_notes(found)) - 1


def test_json_has_no_numbers_that_json_does_not_know():
    assert to_json({"a": (float("nan"), 1 / 3)}) == {"a": [None, 0.333333]}


def test_same_images_and_same_figures_whatever_the_batches(vit_encoder, photographs, monkeypatch):
    once = analyse_all({"vit": vit_encoder}, [photographs], max_images=9)[0][0]
    monkeypatch.setattr("cskd_hf.analysis.compare._MAP_BYTES", 1)  # one image a batch
    again = analyse_all({"vit": vit_encoder}, [photographs], max_images=9)[0][0]
    assert once.features.images == again.features.images == 9
    for name, value in once.figures().items():
        assert again.figures()[name] == (value if value is None else pytest.approx(value, rel=1e-4))


def test_random_weights_are_those_of_the_seed(vit_encoder, photographs, tmp_path):
    ViTConfig.from_pretrained(vit_encoder).save_pretrained(tmp_path)
    ranks = [
        analyse_all({"vit": str(tmp_path)}, [photographs], max_images=9, seed=seed)[0][0].features.effective_rank
        for seed in (0, 0, 1)
    ]
    assert ranks[0] == ranks[1] != ranks[2]


def test_analysis_leaves_the_model_as_it_was(vit_encoder):
    model, preprocessing = load_checkpoint(vit_encoder)
    before, backbone = {name: value.clone() for name, value in model.state_dict().items()}, model.backbone
    analyse(model, preprocessing, torch.randint(0, 255, (5, 3, 32, 32), dtype=torch.uint8), name="vit")
    assert model.backbone is backbone and backbone.config._attn_implementation == "sdpa"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_attention_chosen_at_construction():
    config = Data2VecVisionConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    model = CSKDForFeatureAlignment.from_encoder(AutoModel.from_config(config)).eval()
    backbone = model.backbone
    found = analyse(
        model, Preprocessing((32, 32)), torch.randint(0, 255, (5, 3, 32, 32), dtype=torch.uint8), name="data2vec"
    )
    assert len(found.layers) == 2 and not found.message and model.backbone is backbone


def test_an_encoder_that_fails_when_asked_for_attention_is_still_measured(vit_encoder, monkeypatch):
    model, preprocessing = load_checkpoint(vit_encoder)
    encode = type(model).encode

    def failing(self, pixel_values, **kwargs):
        if kwargs:
            raise AttributeError("'tuple' object has no attribute 'shape'")
        return encode(self, pixel_values)

    monkeypatch.setattr(type(model), "encode", failing)
    found = analyse(model, preprocessing, torch.randint(0, 255, (5, 3, 32, 32), dtype=torch.uint8), name="vit")
    assert found.layers == [] and found.features.images == 5
    assert "fails when it is asked for attention maps (AttributeError: 'tuple' object" in found.message


def test_command_with_checkpoints_of_all_kinds(vit_encoder, encoder, clip, photographs, tmp_path, capsys):
    config = tmp_path / "fresh"
    ViTConfig.from_pretrained(vit_encoder).save_pretrained(config)
    trained = CSKDForImageAesthetics.from_encoder(ViTModel.from_pretrained(vit_encoder))
    trained.save_pretrained(tmp_path / "trained")
    out = tmp_path / "out"
    command = [
        "analyze", str(config / "config.json"), str(tmp_path / "trained"), encoder, "--images", photographs,
        "--reference", clip, "--names", "before", "after", "<cnn>", "--max-images", "12", "--output", str(out), "--cpu",
    ]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ +before +after +<cnn> +\(reference\)$", printed, re.M)
    assert "'after' against 'before': effective rank" in printed
    page = (out / "analysis.html").read_text()
    assert "no attention maps: a convolutional network" in page and "&lt;cnn&gt;" in page and "<cnn>" not in page
    assert page.count("<svg") == 3 and "src=" not in page and "href=" not in page.replace("xlink:href", "")
    results = json.loads((out / "analysis.json").read_text())
    before, after, cnn = results["checkpoints"]
    assert [before["family"], after["family"], cnn["family"]] == ["vit", "vit", "resnet"]
    assert cnn["layers"] == [] and cnn["figures"]["effective_rank"] > 1 and len(before["layers"]) == 2
    assert before["features"]["images"] == cnn["features"]["images"] == results["reference"]["images"] == 12
    assert str(tmp_path) not in json.dumps(results)
    for name in ("analysis", "attention_distance", "attention_entropy", "singular_values"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 300
    assert {path.suffix for path in out.iterdir()} == {".html", ".json", ".png"}


def test_the_reference_is_close_to_itself_and_the_table_says_so(clip, photographs):
    found, reference = analyse_all({"clip": clip}, [photographs], reference=clip, max_images=20)
    assert found[0].features.cka > 0.5 and reference.dim == 12
    assert re.search(r"^CKA to reference +0\.\d+ +n/a$", table(found, reference), re.M)


def test_unreadable_images_are_left_out(vit_encoder, photographs, tmp_path):
    for number in range(5):
        Image.new("RGB", (32, 32), (40 * number, 90, 10)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert analyse_all({"vit": vit_encoder}, [str(tmp_path)])[0][0].features.images == 5


@pytest.mark.parametrize(
    "options, message",
    [
        (["--names", "one"], "names=['one'] must be one different name for each of the 2 checkpoints"),
        (["--names", "one", "one"], "one different name"),
        (["--max-images", "3"], "max_images=3 must be at least 4"),
        (["--reference", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_refusals(options, message, vit_encoder, encoder, photographs, tmp_path, capsys):
    arguments = ["analyze", vit_encoder, encoder, "--images", photographs, "--output", str(tmp_path / "out"), *options]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
