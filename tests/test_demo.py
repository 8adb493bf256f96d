from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

import cskd_hf
from cskd_hf import demo
from cskd_hf.training.settings import SettingsError


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> str:
    """A demo of a few steps: it shows what is written, not what is learned."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    tiny = demo.DemoScale(
        unlabelled=96, rated=60, validation=20, test=24, labels=20, seeds=(3, 5),
        student_align_steps=2, teacher_align_steps=2, teacher_steps=2, student_steps=2,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "QUICK", tiny)
        assert demo.run_demo(str(folder), quick=True) == 0
    return folder


def test_results_have_the_shape_of_every_benchmark(finished):
    results = json.loads((finished / "results.json").read_text())
    rows = results["rows"]
    assert {row["name"] for row in rows} == set(demo.NAMES)
    assert sorted({row["seed"] for row in rows}) == [3, 5] and len(rows) == 2 * len(demo.NAMES)
    for row in rows:
        assert row["labels"] == 20
        assert all(math.isfinite(row[key]) for key in ("srcc", "plcc", "emd"))
    assert results["seconds"] > 0 and results["versions"]["torch"] == torch.__version__


def test_folder_holds_student_report_and_picture_and_nothing_half_made(finished):
    assert {path.name for path in finished.iterdir()} == {"student", "report.html", "overview.png", "results.json"}
    report = (finished / "report.html").read_text()
    for text in [*demo.NAMES.values(), "scatter", "data:image"]:
        assert text in report
    assert "http://" not in report.replace("http://www.w3.org", "") and "<script src" not in report


def test_three_ways_to_load_the_student_give_one_score(finished):
    student = str(finished / "student")
    cell = demo.to_dataset(demo.SyntheticPhotographs(9).generate(1), split="test")[0]
    image = cskd_hf.load_image(cell["image"])
    pixels = AutoImageProcessor.from_pretrained(student)(images=image, return_tensors="pt")
    with torch.no_grad():
        one = AutoModel.from_pretrained(student).eval()(**pixels).score.item()
        two = AutoModelForImageClassification.from_pretrained(student).eval()(**pixels).score.item()
    three = pipeline("image-aesthetics", model=student)(cell["image"]["bytes"])["score"]
    assert abs(one - two) < 1e-5 and abs(one - three) < 1e-5
    assert 1 < one < 10


def test_refuses_a_folder_of_something_else_and_too_many_labels(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SettingsError, match="holds no demo"):
        demo.run_demo(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "thesis.txt").unlink()
    for name in ("cskd-demo-killed", "cskd-demo-notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "cskd-demo-killed" / demo._MARK).touch()
    with pytest.raises(SettingsError, match="holds no demo"):
        demo._refuse_foreign(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "cskd-demo-notes").rmdir()
    demo._refuse_foreign(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SettingsError, match="labels=5000 must be between 2 and 1000"):
        demo.run_demo(str(tmp_path / "new"), labels=5000)
