"""Switches of the loop that must not change what is learnt, and those that a machine or an encoder may refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cskd_hf.cli import main
from cskd_hf.training.engine import fit_engine
from cskd_hf.training.task import TrainingTask


def align(encoder, clip, photographs, folder: Path, *options: str) -> int:
    return main(
        ["align", "--encoder", encoder, "--reference", clip, "--images", photographs, "--output-dir", str(folder),
         "--batch-size", "8", "--max-steps", "5", "--warmup-steps", "2", "--holdout", "5", "--log-every", "1",
         "--eval-every", "3", "--image-size", "32", "--cpu", "--quiet", *options]
    )  # fmt: skip


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line[name] for line in lines for name in ("loss", "eval_loss") if name in line]


@pytest.fixture(scope="module")
def plain(vit_encoder, clip, photographs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("switches") / "plain"
    assert align(vit_encoder, clip, photographs, folder) == 0
    return folder


def test_gradient_checkpointing_takes_the_same_steps(plain, vit_encoder, clip, photographs, tmp_path, monkeypatch):
    from torch.utils import checkpoint

    calls = []
    original = checkpoint._checkpoint_without_reentrant_generator
    monkeypatch.setattr(
        checkpoint, "_checkpoint_without_reentrant_generator", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    assert align(vit_encoder, clip, photographs, tmp_path / "a", "--gradient-checkpointing") == 0
    assert len(calls) == 5 * 2  # steps x layers
    assert losses(tmp_path / "a") == pytest.approx(losses(plain), abs=1e-6)


def test_compiled_model_takes_the_same_steps_under_the_same_names(
    plain, vit_encoder, clip, photographs, tmp_path, monkeypatch
):
    compiled = []

    def in_place(self, **kwargs):  # without a C++ compiler at hand, graphs are still captured
        compiled.append(kwargs)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="aot_eager", **kwargs)

    monkeypatch.setattr(torch.nn.Module, "compile", in_place)
    assert align(vit_encoder, clip, photographs, tmp_path / "a", "--compile") == 0
    assert compiled == [{"dynamic": False}]
    assert losses(tmp_path / "a") == pytest.approx(losses(plain), abs=1e-5)
    for file in ("model.safetensors", "checkpoint/model.safetensors"):
        assert load_file(tmp_path / "a" / file).keys() == load_file(plain / file).keys()


def test_average_is_evaluated_and_saved_and_is_not_what_is_trained(plain, vit_encoder, clip, photographs, tmp_path):
    assert align(vit_encoder, clip, photographs, tmp_path / "a", "--ema-decay", "0.9", "--keep", "last") == 0
    result, trained = (
        load_file(tmp_path / "a" / name) for name in ("model.safetensors", "checkpoint/model.safetensors")
    )
    assert all(value.dtype == torch.float32 for value in result.values())
    assert any(not torch.equal(result[name], trained[f"model.{name}"]) for name in result)
    assert load_file(plain / "checkpoint" / "model.safetensors").keys() == trained.keys()
    for name, value in load_file(plain / "checkpoint" / "model.safetensors").items():
        assert torch.equal(value, trained[name])  # the average looks on
    assert losses(tmp_path / "a")[-1] != losses(plain)[-1]


def test_results_tell_the_peak_of_memory(plain):
    assert 50 < json.loads((plain / "results.json").read_text())["peak_memory_mib"] < 50_000


def test_switches_that_are_not_supported_are_refused_with_a_reason(encoder, clip, photographs, tmp_path, capsys):
    assert align(encoder, clip, photographs, tmp_path / "a", "--gradient-checkpointing") == 2
    assert "gradient_checkpointing is not supported by ResNetModel" in capsys.readouterr().err
    assert align(encoder, clip, photographs, tmp_path / "b", "--sync-batchnorm") == 2
    assert "sync_batchnorm needs CUDA GPUs" in capsys.readouterr().err
    assert align(encoder, clip, photographs, tmp_path / "c", "--ema-decay", "1") == 2
    assert "ema_decay=1.0 must be at least 0 and below 1" in capsys.readouterr().err


def test_batch_norms_are_converted_for_several_gpus(encoder):
    from transformers import AutoModel

    from cskd_hf.data.views import Preprocessing
    from cskd_hf.models.modeling_cskd import CSKDForFeatureAlignment

    model = CSKDForFeatureAlignment.from_encoder(AutoModel.from_pretrained(encoder))
    names = model.state_dict().keys()
    task = TrainingTask(model, Preprocessing(size=(32, 32)))
    task.use_sync_batchnorm(torch.device("cuda"))
    kinds = {type(module).__name__ for module in task.modules()}
    assert "SyncBatchNorm" in kinds and "BatchNorm2d" not in kinds
    assert task.model.state_dict().keys() == names


class _Engine:
    """As much of an accelerator as `fit_engine` looks at."""

    def __init__(self, kind: str, mixed_precision: str = "no", **plugin) -> None:
        from types import SimpleNamespace

        self.distributed_type, self.mixed_precision = kind, mixed_precision
        self.state = SimpleNamespace(fsdp_plugin=SimpleNamespace(**plugin), deepspeed_plugin=SimpleNamespace(**plugin))


@pytest.mark.parametrize(
    "engine, message",
    [
        (_Engine("FSDP", fsdp_version=1), "set fsdp_version: 2"),
        (_Engine("FSDP", fsdp_version=2, cpu_ram_efficient_loading=True), "without weights"),
        (_Engine("DEEPSPEED", zero_stage=3, deepspeed_config={}), "ZeRO-3 is not supported"),
        (_Engine("DEEPSPEED", "bf16", zero_stage=2, deepspeed_config={}), "mixed_precision=bf16 is not supported"),
    ],
)
def test_launch_configurations_that_do_not_fit_are_refused(engine, message):
    from cskd_hf.training.arguments import LoopSettings, SettingsError

    with pytest.raises(SettingsError, match=message):
        fit_engine(engine, LoopSettings())


def test_deepspeed_is_told_the_settings_that_it_needs():
    from cskd_hf.training.arguments import LoopSettings

    config: dict = {}
    fit_engine(
        _Engine("DEEPSPEED", zero_stage=2, deepspeed_config=config),
        LoopSettings(batch_size=6, gradient_accumulation_steps=2, max_grad_norm=1.5),
    )
    assert config == {
        "train_micro_batch_size_per_gpu": 6, "gradient_accumulation_steps": 2, "gradient_clipping": 1.5
    }  # fmt: skip
