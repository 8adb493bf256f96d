"""Teachers by hand: ensembles, mirror images, the moving average, and what a row of outputs holds."""

from __future__ import annotations

import pytest
import torch
from transformers import ViTConfig

from cskd_hf.data.views import Preprocessing
from cskd_hf.models.configuration_cskd import CSKDConfig
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics
from cskd_hf.training.result_weights import ema_decay_at
from cskd_hf.training.teachers import EmaTeacher, Ensemble, FrozenTeacher, MirroredTeacher, split_row, together

VALUES = [1.0, 2.0, 4.0]


def model(width: int = 8) -> CSKDForImageAesthetics:
    encoder = ViTConfig(
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
    )
    scorer = CSKDForImageAesthetics(CSKDConfig(backbone_config=encoder, score_values=VALUES))
    torch.nn.init.normal_(scorer.classifier.weight, std=1.0)
    return scorer


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def members() -> list[FrozenTeacher]:
    torch.manual_seed(0)
    return [
        FrozenTeacher(model(8), Preprocessing((32, 32))),
        FrozenTeacher(model(16), Preprocessing((32, 32), mean=(0.2,) * 3, interpolation="bilinear")),
    ]


def test_a_row_is_distribution_variance_and_feature(members, crops):
    teacher = members[0]
    distribution, variance, feature = split_row(teacher(crops), teacher)
    output = teacher.model(teacher.preprocessing(crops))
    assert torch.equal(distribution, output.distribution) and torch.equal(feature, output.pooler_output)
    for row, spread in zip(distribution.tolist(), variance.tolist()):
        mean = sum(p * v for p, v in zip(row, VALUES))
        assert spread == pytest.approx(sum(p * (v - mean) ** 2 for p, v in zip(row, VALUES)), rel=1e-4)


def test_several_teachers_are_their_mean_and_disagree_by_their_scores(members, crops):
    both = together(members)
    assert isinstance(both, Ensemble) and both.side == 32
    distribution, variance, feature = split_row(both(crops), both)
    alone = [member.model(member.preprocessing(crops)) for member in members]
    assert torch.allclose(distribution, (alone[0].distribution + alone[1].distribution) / 2)
    assert torch.equal(feature, alone[0].pooler_output)
    assert variance.tolist() == pytest.approx(((alone[0].score - alone[1].score) / 2).square().tolist(), rel=1e-3)
    assert variance.max() > 0
    assert together(members[:1]) is members[0] and together([]) is None


def test_mirrored_teacher_does_not_mind_a_mirror(members, crops):
    mirrored = MirroredTeacher(members[0])
    rows = mirrored(crops)
    assert torch.allclose(rows, mirrored(crops.flip(-1)))
    assert torch.allclose(rows, (members[0](crops) + members[0](crops.flip(-1))) / 2)
    assert not torch.allclose(rows, members[0](crops), atol=1e-4)


def test_fingerprints_tell_teachers_apart(members):
    both = [members, members[::-1]]
    prints = [teacher.fingerprint() for teacher in (*members, MirroredTeacher(members[0]), *map(Ensemble, both))]
    assert len(set(prints)) == 5
    assert prints[3] == Ensemble(members).fingerprint()
    with pytest.raises(NotImplementedError):
        EmaTeacher(model(), Preprocessing((32, 32)), 0.9).fingerprint()


def test_teachers_stay_frozen_and_in_evaluation_mode(members):
    for teacher in (
        members[0],
        MirroredTeacher(members[0]),
        Ensemble(members),
        EmaTeacher(model(), members[0].preprocessing, 0.9),
    ):
        teacher.train()
        assert not any(module.training for module in teacher.modules())
        assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_moving_average_follows_the_formula_and_teaches(crops):
    torch.manual_seed(0)
    student = model()
    teacher = EmaTeacher(student, Preprocessing((32, 32)), 0.5)
    before = teacher(crops)
    average = None
    for updates in range(4):
        with torch.no_grad():
            student.classifier.weight[0] += 1
        teacher.update(student)
        weight = student.classifier.weight.detach().clone()
        keep = 0.0 if average is None else ema_decay_at(updates, 0.5)  # the first update takes the weights as they are
        average = weight if average is None else keep * average + (1 - keep) * weight
    assert torch.allclose(teacher.model.classifier.weight, average)
    assert not torch.allclose(average, weight)
    assert not torch.allclose(teacher(crops), before)


def test_half_precision_training_does_not_round_the_variance(members, crops):
    rows = members[0](crops)
    for teacher in (members[0], Ensemble([members[0], MirroredTeacher(members[0])])):
        rows = teacher(crops)
        exact = split_row(rows, teacher)[1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(split_row(rows, teacher)[1], exact)
