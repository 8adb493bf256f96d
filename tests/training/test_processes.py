"""Several processes against one, and runs that are killed against unbroken ones."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from processes import EXAMPLES, FSDP2, command, figures_of, finish, log_of, start_and_wait_for_step
from safetensors.torch import load_file

from cskd_hf.cli import main

# Several processes sum a batch's gradients in another order than one: float32 differs in the last bits of a loss near
# 1 (6e-8 a rounding), and AdamW, which divides by the root of small second moments, lets that grow by a few times in
# each step. Measured over these steps: at most 2.4e-7. A mistake (a part of the batch left out, gradients summed in
# place of averaged before clipping) shows from the second step on in the third digit.
TOLERANCE = 1e-5


def align_arguments(encoder, clip, photographs, folder: Path, batch_size: int, *options: str) -> list[str]:
    return [
        "--encoder", encoder, "--reference", clip, "--images", photographs, "--output-dir", str(folder),
        "--batch-size", str(batch_size), "--max-steps", "8", "--warmup-steps", "2", "--holdout", "5", "--log-every", "1",
        "--eval-every", "4", "--image-size", "32", "--cpu", "--quiet", *options,
    ]  # fmt: skip


def curve(folder: Path, *names: str) -> list[float]:
    return [line[name] for line in log_of(folder) for name in names if name in line]


@pytest.mark.parametrize("script", [EXAMPLES / "train_align.py", FSDP2], ids=["ddp", "fsdp2"])
def test_two_processes_walk_the_loss_curve_of_one(script, vit_encoder, clip, photographs, tmp_path):
    folders = one, two = tmp_path / "one", tmp_path / "two"
    assert main(["align", *align_arguments(vit_encoder, clip, photographs, one, 12)]) == 0
    finish(command(script, align_arguments(vit_encoder, clip, photographs, two, 6), 2))
    training = [curve(folder, "loss") for folder in folders]
    held_out = [curve(folder, "eval_loss") for folder in folders]
    assert len(training[0]) == 8 and len(held_out[0]) == 3
    assert training[0][-1] < 0.5 * training[0][0]
    assert training[1] == pytest.approx(training[0], abs=TOLERANCE)
    assert held_out[1] == pytest.approx(held_out[0], abs=TOLERANCE)
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[1][name].shape == value.shape for name, value in weights[0].items())


def test_three_processes_share_validation_images_that_three_does_not_divide(vit_encoder, ratings, tmp_path):
    table = Path(ratings).read_text().splitlines()
    fewer = [line for line in table if not line.startswith("00.png")]
    (tmp_path / "ratings.csv").write_text("\n".join(fewer))  # 11 validation images

    def arguments(name: str, batch_size: int) -> list[str]:
        return [
            "--encoder", vit_encoder, "--ratings", str(tmp_path / "ratings.csv"), "--image-dir", str(Path(ratings).parent),
            "--output-dir", str(tmp_path / name), "--batch-size", str(batch_size), "--max-steps", "6", "--eval-every", "3",
            "--warmup-steps", "2", "--log-every", "1", "--image-size", "32", "--cpu", "--quiet",
        ]  # fmt: skip

    assert main(["teacher", *arguments("one", 12)]) == 0
    finish(command(EXAMPLES / "train_teacher.py", arguments("three", 4), 3))
    for names in (["loss"], ["eval_plcc", "eval_emd2"]):
        one, three = (curve(tmp_path / name, *names) for name in ("one", "three"))
        assert one and three == pytest.approx(one, abs=TOLERANCE)


MODES = {
    # half precision, an average, accumulated gradients and decoding workers, all at once
    "one": (1, EXAMPLES / "train_align.py", [
        "--mixed-precision", "bf16", "--ema-decay", "0.95", "--gradient-accumulation-steps", "2", "--num-workers", "2",
    ]),
    "ddp": (2, EXAMPLES / "train_align.py", ["--ema-decay", "0.95"]),
    "fsdp2": (2, FSDP2, ["--gradient-accumulation-steps", "2"]),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_and_resumed_run_ends_as_an_unbroken_one(mode, encoder, clip, photographs, tmp_path):
    processes, script, options = MODES[mode]

    def line(name: str, *more: str) -> list[str]:
        arguments = align_arguments(encoder, clip, photographs, tmp_path / name, 4, *options, *more)
        # 35 training images: an epoch ends within a batch; a checkpoint is being written most of the time.
        return command(script, [*arguments, "--max-steps", "24", "--eval-every", "5", "--save-every", "2"], processes)

    finish(line("unbroken"))
    running = start_and_wait_for_step(line("killed"), tmp_path / "killed", 11)
    if mode == "fsdp2":  # one process of two: torchrun has to end the other
        os.kill(psutil.Process(running.pid).children()[-1].pid, signal.SIGKILL)
        assert running.wait(timeout=120) != 0
    else:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert not (tmp_path / "killed" / "results.json").exists()
    finish(line("killed", "--resume"))
    assert figures_of(tmp_path / "killed") == figures_of(tmp_path / "unbroken")
    unbroken, resumed = (tmp_path / name / "model.safetensors" for name in ("unbroken", "killed"))
    assert resumed.read_bytes() == unbroken.read_bytes()
    assert not [path.name for path in (tmp_path / "killed").iterdir() if path.suffix in (".partial", ".old")]


def test_another_number_of_processes_does_not_resume(vit_encoder, clip, photographs, tmp_path, capsys):
    arguments = align_arguments(vit_encoder, clip, photographs, tmp_path / "run", 6)
    assert main(["align", *arguments]) == 0
    state = tmp_path / "run" / "checkpoint" / "progress.json"
    state.write_text(state.read_text().replace('"world_size": 1', '"world_size": 2'))
    (tmp_path / "run" / "results.json").unlink()
    assert main(["align", *arguments, "--resume"]) == 2
    assert "not started with 1 processes" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run")
