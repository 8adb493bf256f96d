"""Checkpoints are folders that appear whole or not at all; the means are those of all output."""

from ..data.replacing import recover_folder, replaced_folder

__all__ = ["recover_folder", "replaced_folder"]
