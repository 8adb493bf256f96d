from __future__ import annotations

import pytest

from cskd_hf.files import recover_folder, replaced_folder


def write(folder, text):
    folder.mkdir()
    (folder / "weights").write_text(text)


def test_an_error_while_writing_leaves_the_folder_as_it_was(tmp_path):
    write(tmp_path / "checkpoint", "before")
    with pytest.raises(RuntimeError), replaced_folder(tmp_path / "checkpoint") as partial:
        (partial / "weights").write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert (tmp_path / "checkpoint" / "weights").read_text() == "before"


@pytest.mark.parametrize(
    "left, kept",
    [
        ({"checkpoint": "old", "checkpoint.cskd-partial": "half"}, "old"),  # killed while writing
        ({"checkpoint.cskd-old": "old", "checkpoint.cskd-partial": "new"}, "old"),  # killed between the two renames
        ({"checkpoint": "new", "checkpoint.cskd-old": "old"}, "new"),  # killed before the old one was removed
    ],
    ids=["writing", "between renames", "removing"],
)
def test_a_kill_at_any_moment_leaves_one_whole_folder(tmp_path, left, kept):
    for name, text in left.items():
        write(tmp_path / name, text)
    recover_folder(tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert (tmp_path / "checkpoint" / "weights").read_text() == kept


def test_a_link_to_a_folder_stays_one(tmp_path):
    write(tmp_path / "disk", "before")
    (tmp_path / "checkpoint").symlink_to("disk")
    for text in ("one", "two"):
        with replaced_folder(tmp_path / "checkpoint") as partial:
            (partial / "weights").write_text(text)
    assert (tmp_path / "checkpoint").is_symlink() and (tmp_path / "disk" / "weights").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "disk"]
