from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cskd_hf.cli import main
from cskd_hf.training.laion_heads import LaionHead, LaionTeacher, soft_ratings
from cskd_hf.training.reference import ReferenceEncoder

WIDTHS = (1024, 128, 64, 16, 1)
GOLDEN = {
    "sa_0_4_vit_l_14_linear.pth": [-2.458, -0.138, 1.895, 3.585, 5.100, 6.470, 7.787, 9.048, 10.226, 11.304],
    "sac+logos+ava1-l14-linearMSE.pth": [1.655, 2.359, 3.070, 3.672, 4.238, 4.701, 5.073, 5.365, 5.577, 5.747],
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def write_v1(path: Path, dim: int) -> nn.Module:
    layer = nn.Linear(dim, 1)
    torch.save(layer.state_dict(), path)
    return layer


def write_v2(path: Path, dim: int) -> nn.Module:
    """As its makers built it, and named its layers."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(zip((dim, *WIDTHS), WIDTHS)):
        layers += [nn.Linear(inputs, outputs)] + ([nn.Dropout(0.2)] if number < 3 else [])
    model = nn.Module()
    model.layers = nn.Sequential(*layers)
    torch.save(model.state_dict(), path)
    return model.layers.eval()


@pytest.mark.parametrize("write", [write_v1, write_v2])
def test_reads_both_published_layouts(tmp_path, write):
    model = write(tmp_path / "head.pth", 12)
    if write is write_v2:
        assert set(torch.load(tmp_path / "head.pth", weights_only=True)) == {
            f"layers.{n}.{part}" for n in (0, 2, 4, 6, 7) for part in ("weight", "bias")
        }
    head = LaionHead.from_file(tmp_path / "head.pth")
    embeds = torch.randn(5, 12)
    expected = model(nn.functional.normalize(embeds, dim=-1))[:, 0]
    assert head.dim == 12
    assert torch.allclose(head(embeds), expected, atol=1e-5)
    assert torch.allclose(head(7 * embeds), expected, atol=1e-5)  # only the direction counts


@pytest.mark.parametrize("file", GOLDEN)
def test_real_heads_give_their_golden_scores(data_folder, file):
    folder = data_folder / "models" / "laion_heads"
    if not folder.is_dir():
        pytest.skip("no LAION heads in the data folder")
    vectors = np.concatenate([np.load(folder / "vit_l_14_embeddings" / f"rating{n}.npy") for n in range(10)])
    scores = LaionHead.from_file(folder / file)(torch.from_numpy(vectors))
    assert scores.tolist() == pytest.approx(GOLDEN[file], abs=1e-3)


def test_real_base_heads_rank_their_rating_vectors(data_folder):
    folder = data_folder / "models" / "laion_heads"
    if not folder.is_dir():
        pytest.skip("no LAION heads in the data folder")
    vectors = np.concatenate([np.load(folder / "vit_b_32_embeddings" / f"rating{n}.npy") for n in range(10)])
    scores = LaionHead.from_file(folder / "sa_0_4_vit_b_32_linear.pth")(torch.from_numpy(vectors))
    assert (scores.diff() > 0).all()


class Touch:
    """What runs when somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_other_files_are_refused_and_nothing_in_them_runs(tmp_path):
    with pytest.raises(ValueError, match="is no file"):
        LaionHead.from_file(tmp_path / "missing.pth")
    torch.save({"state": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    (tmp_path / "text.pth").write_text("<html>404</html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("evil", "pickle", "text", "empty"):
        with pytest.raises(ValueError, match=f"{name}.pth' cannot be read as weights.*sa_0_4_vit"):
            LaionHead.from_file(tmp_path / f"{name}.pth")
    assert not (tmp_path / "ran").exists()
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "two.pth")
    torch.save({"weight": torch.zeros(1, 4)}, tmp_path / "half.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(nn.LayerNorm(4).state_dict(), tmp_path / "norm.pth")
    for name in ("two", "half", "list", "norm"):
        with pytest.raises(ValueError, match=f"{name}.pth' holds"):
            LaionHead.from_file(tmp_path / f"{name}.pth")


@pytest.mark.parametrize("values", [list(range(1, 11)), [1, 2, 3, 4, 5, 6, 7], [1 + n / 2 for n in range(9)]])
@pytest.mark.parametrize("spread", [0.3, 1.4, 5.0])
def test_declared_ratings_have_the_score_as_their_mean(values, spread):
    scores = torch.linspace(values[0], values[-1], 41)
    histograms = soft_ratings(scores, values, spread)
    assert histograms.sum(-1).allclose(torch.ones(41)) and (histograms >= 0).all()
    means = histograms @ torch.tensor(values, dtype=torch.float32)
    assert torch.allclose(means[1:-1], scores[1:-1], atol=1e-3)
    beyond = soft_ratings(torch.tensor([-3.0, 30.0]), values, spread) @ torch.tensor(values, dtype=torch.float32)
    assert beyond.tolist() == pytest.approx([values[0], values[-1]], abs=0.02)


def test_declared_spread():
    values = torch.arange(1.0, 11)
    histogram = soft_ratings(torch.tensor([5.5]), values.tolist(), 1.4)[0]
    assert ((values - 5.5).square() * histogram).sum().sqrt().item() == pytest.approx(1.4, abs=0.01)


def test_teacher_row_is_score_and_embedding(tmp_path, clip):
    torch.save({"weight": torch.randn(1, 12).clamp(-1, 1), "bias": torch.tensor([5.0])}, tmp_path / "head.pth")
    reference, head = ReferenceEncoder.from_pretrained(clip), LaionHead.from_file(tmp_path / "head.pth")
    teacher = LaionTeacher(reference, head, range(1, 11))
    crops = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8)
    distribution, feature = teacher(crops).split([10, 12], dim=1)
    assert torch.allclose(distribution @ torch.arange(1.0, 11), head(reference(crops)), atol=1e-3)
    assert torch.allclose(feature.norm(dim=-1), torch.ones(4), atol=1e-5)
    # Stretched to another scale: the same share of it.
    seven = LaionTeacher(reference, head, range(1, 8))(crops)[:, :7] @ torch.arange(1.0, 8)
    assert torch.allclose((seven - 1) / 6, (head(reference(crops)) - 1) / 9, atol=1e-3)
    other = LaionTeacher(reference, head, range(1, 11), spread=2.0)
    assert other.fingerprint() != teacher.fingerprint()


def student(tmp_path: Path, encoder: str, ratings: str, *options: str) -> int:
    return main([
        "student", "--encoder", encoder, "--ratings", ratings, "--output-dir", str(tmp_path / "student"), "--cpu", "--quiet",
        "--image-size", "32", "--batch-size", "8", "--max-steps", "4", *options,
    ])  # fmt: skip


def test_student_of_a_laion_head(tmp_path, encoder, clip, ratings, photographs):
    write_v1(tmp_path / "head.pth", 12)
    laion = ["--teacher", f"laion:{tmp_path / 'head.pth'}", "--teacher-clip", clip, "--laion-scale", "1", "10"]
    more = ["--images", photographs, "--feature-weight", "0.1", "--pseudo-labels", str(tmp_path / "store")]
    assert student(tmp_path, encoder, ratings, *laion, *more) == 0
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["provenance"]["teacher"] == ["laion:head.pth"]
    assert config["provenance"]["teacher_clip"] == "tiny-clip"
    assert "LAION head" in json.loads((tmp_path / "store" / "unrated" / "manifest.json").read_text())["encoder"]


@pytest.mark.parametrize(
    ("dim", "options", "message"),
    [
        (12, ["--teacher-clip", "CLIP"], "LAION heads score on 1..10, but the ratings are on 1..5"),
        (9, ["--teacher-clip", "CLIP", "--laion-scale", "1", "10"], "takes embeddings of 9 numbers.*gives 12"),
        (12, [], "go together"),
        (12, ["--teacher-clip", "CLIP", "--laion-scale", "10", "1"], "two rising scores"),
        (12, ["--teacher-clip", "CLIP", "--laion-spread", "0"], "laion_spread=0.0 must be above 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(tmp_path, capsys, encoder, clip, ratings, dim, options, message):
    import re

    write_v1(tmp_path / "head.pth", dim)
    options = [clip if option == "CLIP" else option for option in options]
    assert student(tmp_path, encoder, ratings, "--teacher", f"laion:{tmp_path / 'head.pth'}", *options) != 0
    assert re.search(message, capsys.readouterr().err)
