"""Attributes by prompts: the formula, the bank in a checkpoint, which text encoder may fill it, and when it must go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    pipeline,
)

from cskd_hf import CSKDConfig, CSKDForFeatureAlignment, CSKDForImageAesthetics, build_prompt_bank
from cskd_hf.cli import main
from cskd_hf.data.loading import plain_crops
from cskd_hf.data.mixture import open_images
from cskd_hf.data.synthetic import SyntheticPhotographs, tiny_clip_path
from cskd_hf.data.synthetic.tiny_clip import WordTokenizer
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.predict import load_scorer, weights_fingerprint
from cskd_hf.models.prompts_cskd import prompt_probabilities
from cskd_hf.personal.vectors import add_vector, task_vector
from cskd_hf.prompts.bank import remove_prompt_bank
from cskd_hf.prompts.pairs import BUILT_IN, PromptError, prompts_from, read_prompts
from cskd_hf.prompts.text_encoder import TextEncoder, embed_prompts
from cskd_hf.training.reference import ReferenceEncoder

CLIP = str(tiny_clip_path())
NAME, DIM = "tiny_clip", 128
PAIRS = {"templates": ["a {} photo", "a {} picture"], "attributes": {"sharp": ["sharp", ["blurry", "soft"]], "warm": ["warm", "cool"]}}  # fmt: skip


@pytest.fixture(scope="module")
def clip() -> ReferenceEncoder:
    return ReferenceEncoder.from_pretrained(CLIP)


def save_aligned(folder: Path, encoder: str, references: list[dict], history: list[dict] | None = None) -> Path:
    """A scorer with projectors, random all over."""
    torch.manual_seed(0)
    model = CSKDForImageAesthetics.from_encoder(encoder, reference_encoders=references, score_values=[1, 2, 3, 4, 5])
    model.config.history = history
    model.save_pretrained(folder)
    Preprocessing((32, 32)).to_image_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def student(tmp_path: Path, encoder: str) -> Path:
    return save_aligned(tmp_path / "student", encoder, [{"name": "other", "dim": 7}, {"name": NAME, "dim": DIM}])


@pytest.fixture(scope="module")
def photographs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number, image in enumerate(SyntheticPhotographs(3).generate(128).images):
        Image.fromarray(image.numpy()).save(folder / f"{number:03d}.png")
    return folder


def some_pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_probability_is_clips_own_softmax_over_a_pair():
    model = CLIPModel.from_pretrained(CLIP, dtype=torch.float32).eval()
    tokens = WordTokenizer.from_pretrained(CLIP)(["a sharp photo", "a blurry photo", "a warm photo", "a cool photo"])
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        output = model(input_ids=tokens, pixel_values=pixels)
    expected = output.logits_per_image.unflatten(1, (2, 2)).softmax(-1)[..., 0]
    # Of any length: the student's embeddings have another than one.
    prompts = output.text_embeds.unflatten(0, (2, 2)) * 3
    found = prompt_probabilities(output.image_embeds * 7, prompts, model.logit_scale.exp().item())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_tokenizer_of_transformers_reads_as_the_own_one():
    captions = [*SyntheticPhotographs(5).generate(64).captions, "A Zebra, sharp"]
    stock = AutoTokenizer.from_pretrained(CLIP)(captions, padding=True, return_tensors="pt")["input_ids"]
    assert torch.equal(stock, WordTokenizer.from_pretrained(CLIP)(captions))


def test_sides_are_means_over_texts_and_templates():
    encoder = TextEncoder.from_pretrained(CLIP)
    embeds = embed_prompts(encoder, prompts_from(PAIRS))
    assert embeds.shape == (2, 2, DIM)
    texts = ["a blurry photo", "a blurry picture", "a soft photo", "a soft picture"]
    with torch.no_grad():
        tokens = WordTokenizer.from_pretrained(CLIP)(texts)
        own = torch.nn.functional.normalize(encoder.model.get_text_features(input_ids=tokens).pooler_output, dim=-1)
    expected = own.mean(0) / own.mean(0).norm()
    torch.testing.assert_close(embeds[0, 1], expected, atol=1e-5, rtol=0)


def test_a_siglip_reads_texts_of_full_length_without_a_mask(tmp_path: Path):
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**small, "vocab_size": 200, "max_position_embeddings": 9, "projection_size": 16},
        vision_config={**small, "image_size": 16, "patch_size": 8},
    )
    SiglipModel(config).save_pretrained(tmp_path / "siglip")
    PreTrainedTokenizerFast.from_pretrained(CLIP).save_pretrained(tmp_path / "siglip")
    encoder = TextEncoder.from_pretrained(str(tmp_path / "siglip"))
    ids = WordTokenizer.from_pretrained(CLIP)(["a sharp photo"])  # begin, three words, end
    with torch.no_grad():
        features = encoder.model.get_text_features(input_ids=torch.nn.functional.pad(ids, (0, 4))).pooler_output[0]
    torch.testing.assert_close(encoder.embed(["a sharp photo"])[0], features / features.norm(), atol=1e-5, rtol=0)
    with pytest.raises(PromptError, match="has 10 tokens, but 'siglip' reads 9"):
        encoder.embed(["a sharp photo of a red house by"])


def test_a_bank_is_in_config_and_weights_and_scores_stay(student: Path):
    before, _ = load_scorer(str(student))
    pixels = some_pixels()
    scores = before.eval()(pixels).score
    bank = build_prompt_bank(student, CLIP, prompts_from(PAIRS))
    assert bank["reference"] == NAME and [pair["name"] for pair in bank["attributes"]] == ["sharp", "warm"]
    model = AutoModel.from_pretrained(student, dtype=torch.float32).eval()
    output = model(pixels)
    assert torch.equal(output.score, scores)
    # Of the second projector, which `aligned_embeds` is not.
    projected = model.projectors[1](output.pooler_output)
    expected = prompt_probabilities(projected, embed_prompts(TextEncoder.from_pretrained(CLIP), prompts_from(PAIRS)), bank["logit_scale"])  # fmt: skip
    torch.testing.assert_close(output.prompt_attributes, expected, atol=1e-6, rtol=0)
    assert weights_fingerprint(model) == weights_fingerprint(before)  # what was measured before still holds
    phase_1 = CSKDForFeatureAlignment.from_pretrained(student).eval()
    assert torch.equal(phase_1(pixels).prompt_attributes, output.prompt_attributes)
    result = pipeline("image-aesthetics", model=str(student))(Image.new("RGB", (40, 30), (200, 80, 10)))
    assert list(result["prompt_attributes"]) == ["sharp", "warm"]
    assert all(0 < value < 1 for value in result["prompt_attributes"].values())


def test_the_highest_prompts_do_not_take_the_scale_of_an_attribute(student: Path):
    build_prompt_bank(student, CLIP, prompts_from(PAIRS))
    rate = pipeline("image-aesthetics", model=str(student))
    rate.model.config.attributes = {"sharp": [1, 5], "depth": [0, 1]}
    outputs = {
        "distribution": torch.full((1, 5), 0.2),
        "score": torch.tensor([3.0]),
        "attributes": torch.tensor([[3.0, 0.4]]),
        "prompt_attributes": torch.tensor([[0.9, 0.2]]),
    }
    result = rate.postprocess(outputs, top_attributes=1)
    assert result["attributes"] == {"sharp": 3.0}
    assert result["prompt_attributes"] == {"sharp": pytest.approx(0.9)}


def test_a_bank_is_replaced_and_removed(student: Path):
    first = (student / "model.safetensors").read_bytes()
    build_prompt_bank(student, CLIP, prompts_from(PAIRS))
    build_prompt_bank(student, CLIP, "synthetic")
    model = AutoModel.from_pretrained(student)
    assert (
        len(model.prompt_embeds) == len(model.config.prompt_bank["attributes"]) == len(read_prompts("synthetic").pairs)
    )
    remove_prompt_bank(student)
    assert AutoModel.from_pretrained(student).config.prompt_bank is None
    assert "prompt_bank" not in json.loads((student / "config.json").read_text())
    assert len((student / "model.safetensors").read_bytes()) == len(first)


@pytest.mark.parametrize("change", [lambda folder: build_prompt_bank(folder, CLIP, "synthetic"), remove_prompt_bank])
def test_a_checkpoint_without_its_weights_stays_as_it_is(change, student: Path):
    """A file with the prompts alone would be taken for the weights, and all others drawn at random."""
    (student / "model.safetensors").rename(student / "pytorch_model.bin")
    config = (student / "config.json").read_bytes()
    with pytest.raises(PromptError, match=r"has no model\.safetensors, which the prompts are written into"):
        change(student)
    assert not (student / "model.safetensors").exists() and (student / "config.json").read_bytes() == config


def test_weights_in_several_files(student: Path):
    model = CSKDForImageAesthetics.from_pretrained(student)
    (student / "model.safetensors").unlink()
    model.save_pretrained(student, max_shard_size="10KB")
    build_prompt_bank(student, CLIP, prompts_from(PAIRS))
    loaded = CSKDForImageAesthetics.from_pretrained(student)
    assert loaded.prompt_embeds.isfinite().all()
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)
    remove_prompt_bank(student)
    assert not (student / "model-prompts.safetensors").exists()
    assert CSKDForImageAesthetics.from_pretrained(student).config.prompt_bank is None


def test_prompts_that_are_not_loaded_are_no_number(encoder: str):
    bank = {"reference": "a", "logit_scale": 10, "attributes": [{"name": "x", "first": ["a"], "second": ["b"]}]}
    backbone = CSKDForImageAesthetics.from_encoder(encoder).config.backbone_config
    config = CSKDConfig(backbone_config=backbone, reference_encoders=[{"name": "a", "dim": 4}], prompt_bank=bank)
    model = CSKDForImageAesthetics(config).eval()
    assert model(some_pixels()).prompt_attributes.isnan().all()


@pytest.mark.parametrize(
    ("references", "history", "reference", "reason"),
    [
        ([], None, "", "was not aligned with any encoder"),
        ([{"name": NAME, "dim": 12}], None, "", "whose texts have 128 numbers, is not of the space .* 'tiny_clip' with 12"),
        ([{"name": "somebody", "dim": DIM}], None, "", "aligned with 'somebody' with 128 numbers. Give the encoder"),
        ([{"name": NAME, "dim": DIM}], None, "elsewhere", "was not aligned with 'elsewhere'"),
        (
            [{"name": NAME, "dim": DIM}], [{"references": [{"name": NAME, "weights": "0123"}]}], NAME,
            "its image tower has other weights",
        ),
    ],
)  # fmt: skip
def test_another_space_is_refused(references, history, reference, reason, tmp_path: Path, encoder: str):
    folder = save_aligned(tmp_path / "student", encoder, references, history)
    with pytest.raises(PromptError, match=reason):
        build_prompt_bank(folder, CLIP, prompts_from(PAIRS), reference=reference)
    assert json.loads((folder / "config.json").read_text())["prompt_bank"] is None


def test_weights_tell_a_reference_of_another_name(tmp_path: Path, encoder: str, clip: ReferenceEncoder):
    known = [{"references": [{"name": "second", "weights": weights_fingerprint(clip.encoder)}]}]
    references = [{"name": name, "dim": DIM} for name in ("first", "second")]
    folder = save_aligned(tmp_path / "student", encoder, references, known)
    assert build_prompt_bank(folder, CLIP, prompts_from(PAIRS))["reference"] == "second"
    # Of `first` nothing is known, so its maker's word counts.
    assert build_prompt_bank(folder, CLIP, prompts_from(PAIRS), reference="first")["reference"] == "first"


def test_training_leaves_the_bank_behind(student: Path, caplog: pytest.LogCaptureFixture):
    build_prompt_bank(student, CLIP, prompts_from(PAIRS))
    model = CSKDForImageAesthetics.from_encoder(str(student))
    assert model.config.prompt_bank is None and "prompt_embeds" not in model.state_dict()
    assert "prompt bank is left behind" in caplog.text
    assert model.projectors[1].weight.equal(CSKDForImageAesthetics.from_pretrained(student).projectors[1].weight)


def test_a_task_vector_of_the_head_keeps_the_bank_and_one_of_the_encoder_does_not(student: Path):
    before = CSKDForImageAesthetics.from_pretrained(student)
    other = CSKDForImageAesthetics.from_pretrained(student)
    with torch.no_grad():
        other.classifier.bias += 0.1
    head = task_vector(before, other)
    with torch.no_grad():
        next(other.backbone.parameters()).add_(0.1)
    whole = task_vector(before, other)
    build_prompt_bank(student, CLIP, prompts_from(PAIRS))
    model = CSKDForImageAesthetics.from_pretrained(student)
    assert task_vector(model, other).tensors.keys() == whole.tensors.keys()
    add_vector(model, head)
    assert model.config.prompt_bank is not None
    add_vector(model, whole)
    assert model.config.prompt_bank is None and "prompt_embeds" not in model.state_dict()


def test_the_projector_is_fitted_to_the_reference(student: Path, photographs_folder: Path, clip: ReferenceEncoder):
    scores = CSKDForImageAesthetics.from_pretrained(student).eval()(some_pixels()).score
    bank = build_prompt_bank(student, CLIP, "synthetic", fit_images=[str(photographs_folder)], max_images=120)
    facts = bank["projector"]
    assert (facts["images"], facts["held_out"]) == (120, 24)
    assert abs(facts["cosine_before"]) < 0.15 and facts["cosine"] > 0.2
    model, preprocessing = load_scorer(str(student))
    assert torch.equal(model.eval()(some_pixels()).score, scores)
    crops = plain_crops(open_images([str(photographs_folder)], 64, False), 64)
    with torch.no_grad():
        projected = model.project(model.encode(preprocessing(crops))[0])[1]
    assert torch.nn.functional.cosine_similarity(projected, clip(crops)).mean() > 0.2
    # Another bank on the fitted projector says so as well.
    assert build_prompt_bank(student, CLIP, prompts_from(PAIRS))["projector"] == facts
    few = student.parent / "few"
    few.mkdir()
    for path in sorted(photographs_folder.iterdir())[:60]:
        (few / path.name).symlink_to(path)
    with pytest.raises(PromptError, match="60 images can be read .* at least 100"):
        build_prompt_bank(student, CLIP, "synthetic", fit_images=[str(few)])


@pytest.mark.parametrize("name", BUILT_IN)
def test_prompts_of_the_package(name: str):
    prompts = read_prompts(name)
    assert len({pair.name for pair in prompts.pairs}) == len(prompts.pairs) >= 6
    texts = [text for pair in prompts.pairs for side in prompts.texts(pair) for text in side]
    assert not any("{" in text for text in texts)
    for pair in prompts.pairs:
        assert not set(pair.first) & set(pair.second)
    if name == "synthetic":  # the tiny CLIP has read every word
        assert TextEncoder.from_pretrained(CLIP).unknown(texts) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("- a", "prompts need 'attributes'"),
        ("attributes: {}", "'attributes' is empty"),
        ("attributes: {sharp: [a]}", "'sharp': \\['a'\\] must be a name and two sides"),
        ("attributes: {sharp: [yes, blurry]}", "\\[True, 'blurry'\\] must be a name and two sides"),
        ("attributes: {sharp: [[], blurry]}", "must be a name and two sides"),
        ("attributes: {sharp: [a, b]}\ntemplates: ['a photo']", "template 'a photo' must be a text with one {}"),
        ("attributes: {sharp: [a, b]}\nmore: 1", "prompts have no \\['more'\\]"),
        ("attributes: [", "is no YAML or JSON"),
    ],
)
def test_prompts_that_are_none(content: str, reason: str, tmp_path: Path):
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(PromptError, match=reason):
        read_prompts(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("bank", "reason"),
    [
        ({"reference": "a"}, "must be a mapping with reference, logit_scale, attributes"),
        ({"reference": "b", "logit_scale": 1, "attributes": []}, "'b' is none of reference_encoders: \\['a'\\]"),
        ({"reference": "a", "logit_scale": 0, "attributes": []}, "logit_scale=0 must be a finite number above 0"),
        ({"reference": "a", "logit_scale": 1, "attributes": []}, "must be one or more, each name once"),
        ({"reference": "a", "logit_scale": 1, "attributes": [{"name": "x", "first": ["a"]}]}, "each needs a 'name'"),
    ],
)
def test_configs_that_name_no_bank(bank: dict, reason: str):
    with pytest.raises(ValueError, match=reason):
        CSKDConfig(reference_encoders=[{"name": "a", "dim": 4}], prompt_bank=bank)


def test_the_command(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    own = tmp_path / "own.json"
    own.write_text(json.dumps(PAIRS))
    assert main(["prompts", str(student), "--text-encoder", CLIP, "--prompts", str(own)]) == 0
    assert "sharp  sharp / blurry, soft" in capsys.readouterr().out
    assert main(["prompts", str(student), "--remove"]) == 0
    assert CSKDConfig.from_pretrained(student).prompt_bank is None
    assert main(["prompts", str(student)]) == 2
    assert "there is no text encoder" in capsys.readouterr().err
    assert main(["prompts", str(student), "--text-encoder", CLIP, "--prompts", "nowhere.yaml"]) == 2
    assert "neither a file nor one of photographs, synthetic" in capsys.readouterr().err
    own.write_bytes("attributes: {hübsch: [schön, übel]}".encode("latin-1"))
    assert main(["prompts", str(student), "--text-encoder", CLIP, "--prompts", str(own)]) == 2
    assert "own.json' is no YAML or JSON in UTF-8" in capsys.readouterr().err
    assert main(["prompts", str(student), "--text-encoder", CLIP, "--fit-images", "photos", "--max-images", "0"]) == 2
    assert "--max-images 0 must be at least 100" in capsys.readouterr().err
    assert main(["prompts", str(student), "--text-encoder", CLIP, "--remove"]) == 2
    assert "--remove takes the prompts away; give it alone" in capsys.readouterr().err
    assert main(["prompts", str(tmp_path / "none"), "--text-encoder", CLIP]) == 2
    assert main(["prompts", str(student), "--text-encoder", str(student)]) == 2
    assert "It must be a Hub name or a folder of a whole CLIP" in capsys.readouterr().err


def test_an_exported_graph_has_them_without_torch_weights(student: Path, tmp_path: Path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from cskd_hf.export.onnx_graphs import export_onnx
    from cskd_hf.scoring.engine import load_engine

    build_prompt_bank(student, CLIP, prompts_from(PAIRS))
    graph = load_engine(str(export_onnx(student, tmp_path / "graphs")))
    pixels = some_pixels().numpy()
    expected = load_engine(str(student), device="cpu").score(pixels)
    for found, known in zip(graph.score(pixels), expected, strict=True):
        assert list(found["prompt_attributes"]) == ["sharp", "warm"]
        assert found["prompt_attributes"] == pytest.approx(known["prompt_attributes"], abs=1e-4)
    # Results with other prompts have other columns, so they are not mixed in one file.
    remove_prompt_bank(student)
    without = load_engine(str(export_onnx(student, tmp_path / "without")))
    assert graph.settings["weights"] == without.settings["weights"]
    assert graph.settings["prompt_bank"] and "prompt_bank" not in without.settings
