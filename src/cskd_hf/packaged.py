"""The student that comes with the package: what scores where no model is named."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def default_student_path() -> Path:
    """Folder of the packaged student, for `from_pretrained`; made by `examples/build_default_student.py`.

    Its card, README.md in the folder, says what it was trained on, what it measured, and what it is not.
    """
    return Path(str(files(__package__) / "assets" / "default_student"))
