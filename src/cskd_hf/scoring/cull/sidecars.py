"""XMP sidecars: stars beside the photographs, for the programs that read them there.

What the programs read, from their manuals and source code:

- `darktable`: `photo.jpg.xmp` is darktable's and digiKam's own name, for every format. darktable reads it when a
  photograph is imported, and later where "look for updated XMP files on startup" is on. digiKam reads it where "read
  from sidecar files" is on in its metadata settings.
- `lightroom`: `photo.xmp` is Adobe's name. Lightroom Classic, Bridge and Camera Raw read it only for raw files; the
  metadata of a JPEG, PNG or TIFF file they expect inside it, which is not touched here. So it serves who shoots RAW and
  JPEG together: the JPEG is scored, and its stars are those of the raw file of that name. darktable reads it at import,
  and digiKam prefers it to `photo.jpg.xmp` where both exist.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...files import replaced_file
from .xmp import XMPError, change_fields, new_packet, read_fields

_PACKET = re.compile(rb"<x:xmpmeta\b.*?</x:xmpmeta>", re.DOTALL)
_MAX_SIDECAR = 64 * 2**20


@dataclass(frozen=True)
class Outcome:
    """What became of a sidecar.

    Args:
        photograph: its path.
        sidecar: the path beside it.
        what: "written", "changed", "same", "kept" (it has a rating already) or "failed".
        reason: of "kept" and "failed".
    """

    photograph: str
    sidecar: str
    what: str
    reason: str = ""


def sidecar_paths(photograph: str, naming: str) -> list[Path]:
    """Where the sidecars of a photograph are; an existing one is found in capital letters too.

    Args:
        photograph: its path.
        naming: "lightroom": `photo.xmp`; "darktable": `photo.jpg.xmp`; or "both".
    """
    path = Path(photograph)
    wanted = []
    if naming in ("lightroom", "both"):
        wanted.append(path.with_suffix(".xmp"))
    if naming in ("darktable", "both"):
        wanted.append(path.with_name(f"{path.name}.xmp"))
    return [_existing(one) for one in wanted]


def write_sidecars(
    photographs: Sequence[tuple[str, dict[str, str]]], naming: str, *, overwrite: bool = False
) -> list[Outcome]:
    """Write stars into sidecars; the photographs themselves are only read.

    An existing sidecar keeps every byte but its rating and label. A rating that is there already, in it or in the
    photograph itself, is the user's and stays; 0 is none. A sidecar that two photographs share belongs to neither.

    Args:
        photographs: path, and the properties to set: `Rating`, and where wanted `Label`.
        naming: as in `sidecar_paths`.
        overwrite: replace ratings and labels that are there.

    Returns:
        what became of each sidecar; one that fails costs the others nothing.
    """
    places = [(path, fields, sidecar) for path, fields in photographs for sidecar in sidecar_paths(path, naming)]
    shared = Counter(str(sidecar) for _, _, sidecar in places)
    outcomes = []
    for path, fields, sidecar in places:
        if shared[str(sidecar)] > 1:
            reason = "several photographs have this sidecar; the darktable naming gives each its own"
            outcomes.append(Outcome(path, str(sidecar), "failed", reason))
            continue
        try:
            outcomes.append(_write(path, fields, sidecar, overwrite))
        except (OSError, XMPError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            outcomes.append(Outcome(path, str(sidecar), "failed", reason))
    return outcomes


def _write(photograph: str, fields: dict[str, str], sidecar: Path, overwrite: bool) -> Outcome:
    exists = sidecar.exists()
    if exists and not sidecar.is_file():
        raise XMPError("it is no regular file")
    if exists and sidecar.stat().st_size > _MAX_SIDECAR:
        raise XMPError(f"it is larger than {_MAX_SIDECAR} bytes")
    data = sidecar.read_bytes() if exists else b""
    there = read_fields(data) if data.strip() else {}
    if not overwrite:
        inside = {} if _rated(there) else embedded_fields(photograph)
        for where, found in (("its sidecar", there), ("the photograph itself", inside)):
            if _rated(found):
                return Outcome(photograph, str(sidecar), "kept", f"{where} has the rating {found['Rating']}")
        fields = {name: value for name, value in fields.items() if name == "Rating" or not there.get(name)}
    changed = change_fields(data, fields) if data.strip() else new_packet(fields)
    if changed == data:
        return Outcome(photograph, str(sidecar), "same")
    # A link to a sidecar that is kept elsewhere stays a link.
    target = Path(os.path.realpath(sidecar)) if exists else sidecar
    with replaced_file(target) as partial:
        partial.write_bytes(changed)
        if exists:
            shutil.copymode(target, partial)
    return Outcome(photograph, str(sidecar), "changed" if exists else "written")


def embedded_fields(photograph: str) -> dict[str, str]:
    """The XMP properties that a photograph carries itself, found as a packet wherever it lies: behind the pixels in WebP,
    anywhere in TIFF; none where damaged."""
    with open(photograph, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _PACKET.search(content)
        packet = bytes(found[0]) if found else b""
        del found  # it holds the map open
    if not packet:
        return {}
    try:
        return read_fields(packet)
    except XMPError:
        return {}


def _rated(fields: dict[str, str]) -> bool:
    """Whether somebody rated it; cameras and programs write 0 for not yet."""
    return fields.get("Rating", "0").strip() not in ("", "0", "0.0")


def _existing(path: Path) -> Path:
    capital = path.with_suffix(".XMP")
    return capital if not path.exists() and capital.exists() else path
