"""What each encoder of hub_configs states of itself. `python tests/hub_config_facts.py` writes it: facts.json, README."""

from __future__ import annotations

import json
import re
from pathlib import Path

from transformers import AutoConfig, AutoImageProcessor

import cskd_hf  # noqa: F401  # AutoConfig knows `cskd` by it
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.complexity import count_macs, count_parameters, on_meta
from cskd_hf.files import write_json

HUB_CONFIGS = Path(__file__).parents[1] / "hub_configs"
MODELS = sorted(path.parent for path in HUB_CONFIGS.glob("*/*/config.json"))
TABLE = re.compile(r"(?<=<!-- encoders -->\n).*(?=<!-- /encoders -->)", re.DOTALL)


def counted(folder: Path) -> dict:
    """Parameters of the encoder, and multiply-adds and pixels of an image of its size."""
    size = Preprocessing.from_image_processor(AutoImageProcessor.from_pretrained(folder)).size
    model = on_meta(AutoConfig.from_pretrained(folder))
    return {
        "parameters": count_parameters(model.backbone),
        "macs": count_macs(model, size),
        "image_size": list(size),
    }


def stated(folder: Path) -> dict:
    return json.loads((folder / "facts.json").read_text())


def table() -> str:
    """The rows of hub_configs/README.md, from the facts.json files."""
    rows = [
        "| `--encoder hub_configs/...` | encoder | image | parameters | multiply-adds | pretrained weights |",
        "|---|---|---|---|---|---|",
    ]
    for folder in MODELS:
        facts = stated(folder)
        weights = ", ".join(f"`{name}`" for name in facts["pretrained"]) or "none"
        height, width = facts["image_size"]
        rows.append(
            f"| `{folder.relative_to(HUB_CONFIGS)}` | {facts['encoder']} | {height} x {width} | "
            f"{_short(facts['parameters'])} | {_short(facts['macs'])} | {weights} |"
        )
    return "\n".join(rows) + "\n"


def _short(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"


if __name__ == "__main__":
    for model in MODELS:
        write_json(model / "facts.json", stated(model) | counted(model))
    readme = HUB_CONFIGS / "README.md"
    readme.write_text(TABLE.sub(lambda _: table(), readme.read_text()))
