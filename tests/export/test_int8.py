"""int8 graphs: the measured loss, which layers stay in float, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import transformers as t
from PIL import Image
from transformers import SiglipImageProcessor

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

from cskd_hf.cli import main  # noqa: E402
from cskd_hf.export import int8  # noqa: E402
from cskd_hf.export.native import ExportError  # noqa: E402
from cskd_hf.export.quantisation import Scheme, excluded_nodes, levels_of  # noqa: E402
from cskd_hf.files import file_digest  # noqa: E402
from cskd_hf.scoring.engine import load_engine  # noqa: E402
from cskd_hf.scoring.onnx_metadata import read_metadata  # noqa: E402
from tiny_scorers import save_scorer  # noqa: E402


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, photographs: str, ratings: str) -> tuple[str, Path, str]:
    """Checkpoint, folder of its int8 export, and what the command said."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("int8")
    checkpoint = save_scorer(folder / "student")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(
            ["export", checkpoint, "--format", "int8", "--output", str(folder / "out"), "--calibration-images", photographs]
            + ["--ratings", ratings, "--split", "validation", "--limit", "32", "--quiet"]
        )  # fmt: skip
    assert code == 0
    return checkpoint, folder / "out", said.getvalue()


def test_convolutions_are_in_int8_and_the_heads_in_float(exported):
    _, folder, _ = exported
    graph = onnx.load(folder / "model.onnx").graph
    whole = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    assert len(whole) >= 5
    makers = {output: node for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert {node.op_type for node in products} == {"Conv", "Gemm"}
    for node in products:
        rounded = getattr(makers.get(node.input[1]), "op_type", "") == "DequantizeLinear"
        assert rounded == (node.op_type == "Conv")


def test_the_loss_is_what_a_comparison_of_scores_finds(exported, photographs: str):
    checkpoint, folder, said = exported
    report = json.loads((folder / "export.json").read_text())["quantisation"]
    exact, rounded = load_engine(checkpoint), load_engine(str(folder))
    assert rounded.settings["graph"] == file_digest(
        folder / "model.onnx"
    )  # the ranges are in it, the weights' hash not
    assert report["scheme"] == read_metadata(folder / "model.onnx")["quantisation"]["scheme"]
    pixels = np.stack([exact.prepare(path) for path in sorted(Path(photographs).iterdir())])
    gaps = np.abs([a["score"] - b["score"] for a, b in zip(exact.score(pixels), rounded.score(pixels))]) / 4
    assert 0 < gaps.mean() < 0.05  # not the float scores again
    assert report["calibration_images"] == report["held_out"]["images"] == 16
    assert report["held_out"]["largest_difference"] <= gaps.max() + 1e-6  # all images are in the folder
    assert report["held_out"]["mean_difference"] == pytest.approx(gaps.mean(), rel=0.8)
    rated = report["ratings"]
    assert rated["images"] == 12 and rated["srcc_loss"] == pytest.approx(rated["srcc_float"] - rated["srcc_int8"])
    assert f"{rated['srcc_float']:.4f} in float, {rated['srcc_int8']:.4f} in int8" in said and "times as fast" in said


def test_the_pipeline_graph_is_in_int8_too(exported):
    checkpoint, folder, _ = exported
    picture = np.random.default_rng(0).integers(0, 256, (1, 3, 45, 70), dtype=np.uint8)
    session = ort.InferenceSession(str(folder / "pipeline.onnx"), providers=["CPUExecutionProvider"])
    engine = load_engine(str(folder))
    expected = engine.score(engine.prepare(picture[0].transpose(1, 2, 0))[None])[0]["score"]
    assert session.run(["score"], {"image": picture})[0][0] == pytest.approx(expected, abs=0.02)


def depthwise_graph(file: Path) -> None:
    """pixel_values -> convolution -> depthwise convolution -> pooling -> heads."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {"w0": (4, 3, 3, 3), "w1": (4, 1, 3, 3), "w2": (4, 5), "w3": (4, 2)}
    nodes = [
        helper.make_node("Conv", ["pixel_values", "w0"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w1"], ["b"], "deep", group=4),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], "pool"),
        helper.make_node("Flatten", ["c"], ["d"], "flat"),
        helper.make_node("MatMul", ["d", "w2"], ["e"], "classifier"),
        helper.make_node("Softmax", ["e"], ["distribution"], "softmax"),
        helper.make_node("MatMul", ["d", "w3"], ["aligned_embeds"], "projector"),
    ]
    inputs = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("distribution", "aligned_embeds")]
    made = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, made)), file)


def test_layers_that_stay_in_float(tmp_path: Path):
    depthwise_graph(tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx").graph
    heads = {"classifier", "softmax", "projector"}
    assert set(excluded_nodes(graph, ())) == heads
    assert set(excluded_nodes(graph, ("first",))) == heads | {"first"}
    assert set(excluded_nodes(graph, ("depthwise", "first"))) == heads | {"first", "deep"}
    levels = levels_of(tmp_path / "a.onnx", [(), ("first",), ("depthwise",)])
    assert [level[0].kept for level in levels] == [(), ("first",), ("depthwise",)]
    del graph.node[1]
    graph.node[1].input[0] = "a"
    onnx.save(onnx.helper.make_model(graph), tmp_path / "b.onnx")
    assert [level[0].kept for level in levels_of(tmp_path / "b.onnx", [(), ("depthwise",), ("first",)])] == [
        (),
        ("first",),
    ]
    assert Scheme("MinMax", ("first",)).name == "MinMax, in float: heads, first"


def test_more_layers_stay_in_float_until_the_scores_agree(monkeypatch, tmp_path: Path):
    depthwise_graph(tmp_path / "a.onnx")
    pixels = np.zeros((20, 3, 8, 8), np.float32)
    exact = np.linspace(1, 5, 20)
    scores = {(): exact[::-1], ("first",): exact + 0.02, ("depthwise",): exact}
    tried = []

    def quantise(source, target, scheme, given):
        tried.append(scheme)
        return scheme

    monkeypatch.setattr(int8, "quantise", quantise)
    monkeypatch.setattr(int8, "_scores", lambda file, _: exact if file.name == "a.onnx" else scores[tried[-1].kept])
    monkeypatch.setattr(int8, "SCHEMES", ((), ("first",), ("depthwise",)))
    scorer = type("Scorer", (), {"span": 4.0})()
    scheme, _, report = int8._choose(scorer, tmp_path / "a.onnx", pixels, quiet=True)
    assert scheme.kept == ("first",) and {entry.kept for entry in tried} == {
        (),
        ("first",),
    }  # good, so it went no further
    assert [entry["good"] for entry in report] == [False] * 3 + [True] * 3


def test_too_few_images(tmp_path: Path):
    (tmp_path / "images").mkdir()
    checkpoint = save_scorer(tmp_path / "student")
    with pytest.raises(ExportError, match="holds 0 readable images; int8 needs at least 16"):
        int8.export_int8(checkpoint, tmp_path / "out", calibration_images=tmp_path / "images", quiet=True)
    with pytest.raises(ValueError, match="--limit 15 must be at least 16"):
        int8.export_int8(checkpoint, tmp_path / "out", calibration_images=tmp_path / "images", limit=15, quiet=True)
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_is_replaced_by_the_next(tmp_path: Path):
    for number in range(20):
        Image.effect_noise((40, 40), 50).convert("RGB").save(tmp_path / f"{number:02d}.png")
    for number in range(4):
        (tmp_path / f"{number:02d}.png").write_bytes(b"no image")
    scorer = SimpleNamespace(processor=SiglipImageProcessor(size={"height": 32, "width": 32}))
    pixels, unreadable = int8._calibration_pixels(scorer, tmp_path, 16, quiet=True)
    assert len(pixels) == 16 and unreadable <= 4
    assert len(int8._calibration_pixels(scorer, tmp_path, 400, quiet=True)[0]) == 16


def test_layers_of_a_vit(tmp_path: Path):
    """Its heads, too, are found, and its attention is not taken for one."""
    from cskd_hf.export.onnx_graphs import Scorer, build_model

    config = t.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    _, model = build_model(Scorer.load(save_scorer(tmp_path / "student", backbone=config)))
    kept = excluded_nodes(model.graph, ())
    products = [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert len(set(products) & set(kept)) == 2 and len(products) >= 6  # classifier and pooler
