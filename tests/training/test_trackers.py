"""Trackers by name through Accelerate: TensorBoard for real, W&B and Trackio with stand-ins of their modules."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import accelerate.tracking
import pytest
from accelerate.utils import LoggerType
from processes import EXAMPLES, command, finish, log_of

from cskd_hf.cli import main

FAST = ["--cpu", "--quiet", "--batch-size", "8", "--image-size", "32", "--max-steps", "4", "--log-every", "1"]


@pytest.fixture
def arguments(encoder, ratings, tmp_path):
    return ["teacher", "--encoder", encoder, "--ratings", ratings, "--output-dir", str(tmp_path / "run-7"), *FAST]


class Service:
    """Stands in for the module of a tracker: remembers what it is told. The calls are those of W&B 0.31 and Trackio 0.43."""

    def __init__(self, fails_at: str = "") -> None:
        self.calls, self.fails_at = [], fails_at
        self.config = SimpleNamespace(update=lambda values, **_: self._note("config", values))

    def _note(self, what, *content):
        self.calls.append((what, *content))
        if what == self.fails_at:
            raise RuntimeError("no answer")

    def init(self, project, **kwargs):
        self._note("init", project, kwargs)
        return SimpleNamespace(
            log=lambda values, step=None: self._note("log", values, step), finish=lambda: self._note("finish")
        )

    def told(self, what):
        return [call[1:] for call in self.calls if call[0] == what]


@pytest.fixture
def installed(monkeypatch):
    """Make a tracker's module this stand-in, and let Accelerate find it."""

    def install(name: str, service: Service) -> Service:
        monkeypatch.setitem(sys.modules, name, service)
        monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType(name)])
        return service

    return install


def figures(line):
    return {key: value for key, value in line.items() if key != "step"}


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_service_is_told_settings_and_every_line_of_the_log(name, installed, arguments, tmp_path):
    service = installed(name, Service())
    assert main([*arguments, "--trackers", name]) == 0
    assert service.told("init") == [("cskd", {"name": "run-7"})]
    (settings,) = service.told("config")[0]
    assert settings["max_steps"] == 4 and settings["trackers"] == f"['{name}']"
    log = log_of(tmp_path / "run-7")
    assert service.told("log") == [(figures(line), line["step"]) for line in log]
    assert {line["step"] for line in log} == {0, 1, 2, 3, 4} and any("eval_srcc" in line for line in log)
    assert service.told("finish") == [()]


@pytest.mark.parametrize("fails_at", ["log", "finish"])
def test_tracker_that_fails_on_the_way_ends_no_training(fails_at, installed, arguments, tmp_path, caplog):
    service = installed("wandb", Service(fails_at))
    assert main([*arguments, "--trackers", "wandb"]) == 0
    assert {line["step"] for line in log_of(tmp_path / "run-7")} == {0, 1, 2, 3, 4}
    assert json.loads((tmp_path / "run-7" / "results.json").read_text())["step"] == 4
    assert len(service.told(fails_at)) == 1
    assert caplog.text.count("tracker wandb (RuntimeError: no answer)") == 1


def test_tracker_that_does_not_start_is_named_before_anything_is_trained(installed, arguments, tmp_path, capsys):
    installed("wandb", Service("init"))
    assert main([*arguments, "--trackers", "wandb"]) == 2
    message = capsys.readouterr().err
    assert "the trackers wandb did not start (RuntimeError: no answer)" in message and "WANDB_MODE=offline" in message
    assert not (tmp_path / "run-7").exists()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("tensorboard", "pip install 'cskd_hf[tracking]'"),
        ("wandb", "pip install 'cskd_hf[wandb]'"),
        ("trackio", "pip install 'cskd_hf[trackio]'"),
        ("mlflow", "pip install 'mlflow'"),
        ("tensorbord", "did you mean 'tensorboard'?"),
    ],
)
def test_tracker_that_is_not_there_is_refused(name, advice, monkeypatch, arguments, tmp_path, capsys):
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    assert main([*arguments, "--trackers", name]) == 2
    message = capsys.readouterr().err
    assert f"'{name}'" in message and advice in message
    assert not (tmp_path / "run-7").exists()


def test_extras_that_the_messages_name_exist():
    from configparser import ConfigParser

    from cskd_hf.training.trackers import _EXTRAS

    settings = ConfigParser()
    settings.read(EXAMPLES.parent / "setup.cfg")
    for tracker, extra in _EXTRAS.items():
        assert tracker in settings["options.extras_require"][extra.partition("[")[2].rstrip("]")]


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            found |= {(tag, event.step): event.value for event in events.Scalars(tag)}
    return found


def test_tensorboard_holds_what_the_log_holds(arguments, tmp_path):
    pytest.importorskip("tensorboard")
    assert main([*arguments, "--trackers", "tensorboard"]) == 0
    found = scalars(tmp_path / "run-7" / "cskd")
    log = log_of(tmp_path / "run-7")
    expected = {(name, line["step"]): value for line in log for name, value in figures(line).items()}
    assert ("eval_srcc", 0) in expected and ("loss", 4) in expected
    # Beside the figures it has the settings that are numbers.
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_several_processes_with_a_tracker(arguments, tmp_path):
    pytest.importorskip("tensorboard")
    script = EXAMPLES / "train_teacher.py"
    finish(command(script, [*arguments[1:], "--trackers", "tensorboard"], processes=2))
    assert json.loads((tmp_path / "run-7" / "results.json").read_text())["step"] == 4
    found = scalars(tmp_path / "run-7" / "cskd")
    assert all(("loss", step) in found for step in (1, 2, 3, 4))
