from __future__ import annotations

import subprocess
import sys

import pytest

from cskd_hf.commands import COMMANDS, DATA_ACTIONS, code_of


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_neither_torch_nor_transformers():
    loaded = run_python(
        "import sys, cskd_hf; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    assert loaded == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        "import cskd_hf; from transformers import pipelines, AutoModel",
        "from transformers import pipelines, AutoModel; import cskd_hf",
        "import cskd_hf.models.pipeline_cskd; from transformers import pipelines, AutoModel",
        "from cskd_hf import CSKDForImageAesthetics; from transformers import pipelines, AutoModel",
    ],
)
def test_registered_whatever_is_imported_first(imports):
    code = f"""{imports}
from transformers import AutoConfig, ResNetConfig
from transformers.pipelines import PIPELINE_REGISTRY
config = AutoConfig.for_model("cskd", backbone_config=ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
print(type(AutoModel.from_config(config)).__name__, "image-aesthetics" in PIPELINE_REGISTRY.get_supported_tasks())
"""
    assert run_python(code) == "CSKDForImageAesthetics True"


def test_core_works_without_torchvision_and_timm():
    code = """import sys
sys.modules["torchvision"] = sys.modules["timm"] = None
from cskd_hf.models.pipeline_cskd import ImageAestheticsPipeline
from cskd_hf.training import align, student, teacher
from cskd_hf.data.views import Preprocessing
print(type(Preprocessing(size=(32, 32)).to_image_processor()).__name__)
"""
    assert run_python(code).startswith("SiglipImageProcessor")


def test_help_of_every_command_loads_no_torch():
    code = """import contextlib, io, sys
from cskd_hf.cli import build_parser
from cskd_hf.commands import COMMANDS, DATA_ACTIONS
parser = build_parser()
for words in [[command.name] for command in COMMANDS] + [["data", action.name] for action in DATA_ACTIONS]:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        parser.parse_args([*words, "--help"])
    assert text.getvalue().startswith("usage: cskd-hf " + " ".join(words)), words
print([name for name in ("torch", "transformers", "datasets", "gradio") if name in sys.modules])
"""
    assert run_python(code) == "[]"


@pytest.mark.parametrize(
    "command", [c for c in (*COMMANDS, *DATA_ACTIONS) if c.code], ids=lambda command: command.code
)
def test_code_of_every_command_is_there(command):
    assert callable(code_of(command))
