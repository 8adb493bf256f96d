from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from cskd_hf.cli import build_parser, main
from cskd_hf.training.arguments import AlignSettings, StudentSettings, TeacherSettings
from cskd_hf.training.recipes import read_recipe, settings_from, write_recipe
from cskd_hf.training.settings import SettingsError

RECIPES = sorted((Path(__file__).parents[2] / "hub_configs" / "recipes").glob("*.yaml"))


def parse(*arguments: str, settings_class: type = AlignSettings):
    return settings_from(build_parser().parse_args(arguments), settings_class)


def test_command_line_wins_over_recipe_and_recipe_over_defaults(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "encoder: e\nreference: [c]\nimages: u\noutput_dir: o\nlearning_rate: 1e-4\nmax_steps: 7\nflip: false\n"
    )
    settings = parse("align", "--recipe", str(recipe), "--max-steps", "9", "--images", "a", "b", "--loss", "cosine")
    assert (settings.max_steps, settings.learning_rate, settings.flip) == (9, 1e-4, False)
    assert (settings.images, settings.reference, settings.loss) == (["a", "b"], ["c"], ["cosine"])
    assert settings.weight_decay == AlignSettings().weight_decay


@pytest.mark.parametrize("settings_class", [AlignSettings, TeacherSettings, StudentSettings])
def test_every_setting_survives_a_recipe_and_is_explained(tmp_path, settings_class):
    settings = settings_class(output_dir="o", trackers=["tensorboard"], max_grad_norm=0.5)
    write_recipe(settings, tmp_path / "r.yaml")
    assert settings_class(**read_recipe(tmp_path / "r.yaml", settings_class)) == settings
    assert all(len(entry.metadata["help"]) > 10 for entry in fields(settings_class))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat: 1", "unknown setting 'learning_rat'; did you mean 'learning_rate'?"),
        ("max_steps: many", "max_steps='many' must be of type int"),
        ("flip: 3", "flip=3 must be of type bool"),
        ("- a", "must be a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_recipe_refuses(tmp_path, content, message):
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(SettingsError) as caught:
        read_recipe(tmp_path / "r.yaml", AlignSettings)
    assert message in str(caught.value)


def test_unknown_option_is_refused_with_the_nearest_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["teacher", "--learning-rat", "1"])
    assert stopped.value.code == 2
    assert "unknown option '--learning-rat'; did you mean '--learning-rate'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "output_dir is not set"),
        (["--output-dir", "o"], "encoder is not set"),
        (["--output-dir", "o", "--encoder", "e"], "reference is not set"),
        (["--output-dir", "o", "--encoder", "e", "--reference", "r"], "images is not set"),
        (
            ["--output-dir", "o", "--encoder", "e", "--reference", "r", "--images", "a", "b", "--image-weights", "1"],
            "as many --image-weights",
        ),
        (
            ["--output-dir", "o", "--encoder", "e", "--reference", "r", "--images", "a", "--crop-scale", "0.9", "0.1"],
            "crop_scale",
        ),
        (["--output-dir", "o", "--max-steps", "0"], "max_steps=0 must be at least 1"),
    ],
)
def test_missing_or_senseless_settings(arguments, message):
    with pytest.raises(SettingsError, match=message):
        parse("align", *arguments)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(recipe):
    classes = {"align": AlignSettings, "teacher": TeacherSettings, "student": StudentSettings}
    (settings_class,) = (classes[word] for word in recipe.stem.split("-") if word in classes)
    assert read_recipe(recipe, settings_class)


@pytest.mark.parametrize("command", ["align", "teacher", "student", "demo", "score"])
def test_help_needs_no_torch(command):
    code = f"import sys; from cskd_hf.cli import main\ntry: main(['{command}', '--help'])\nfinally: print('TORCH', 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "TORCH False" in done.stdout
    assert "--output" in done.stdout
