"""The rating in an XMP packet: read it, and change it and nothing else.

XMP (ISO 16684-1) is RDF in XML. Programs write `xmp:Rating` either as an attribute of `rdf:Description` (Lightroom,
darktable, exiv2) or as an element in it (exiftool); both are read and changed where they stand. Every other byte of the
packet stays: edits, keywords and layout of another program's file are not ours to rewrite.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

XMP = "http://ns.adobe.com/xap/1.0/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_ATTRIBUTE = re.compile(rb"\s+([^\s=/>]+)\s*=\s*(\"[^\"]*\"|'[^']*')")
_NEW = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="cskd_hf">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"{fields}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


class XMPError(ValueError):
    """An XMP packet is damaged or of a form that cannot be changed safely; the message says what is wrong."""


@dataclass
class _Place:
    """Where a field stands: bytes `start` to `end` are its value; without them an empty element `<name/>` is there."""

    value: str
    start: int
    end: int
    quoted: bool = False
    empty: bytes | None = None


@dataclass
class Packet:
    """What was found in a packet.

    Attributes:
        places: of the properties of the XMP namespace in the top-level descriptions, by name: "Rating", "Label", ...
        insert_at: byte behind the name of the first description, where attributes can be added.
        prefix: that stands for the XMP namespace there, or `None`.
        taken: prefixes that stand for something else there.
        rest: everything but the looked-for properties, to see that it stays.
    """

    places: dict[str, list[_Place]] = field(default_factory=dict)
    insert_at: int | None = None
    prefix: str | None = None
    taken: frozenset[str] = frozenset()
    rest: list[object] = field(default_factory=list)


def new_packet(fields: dict[str, str]) -> bytes:
    """A sidecar file with these properties of the XMP namespace and nothing else."""
    lines = "".join(f"\n   xmp:{name}={quoteattr(value)}" for name, value in fields.items())
    return _NEW.format(fields=lines).encode()


def read_fields(data: bytes) -> dict[str, str]:
    """The properties of the XMP namespace that are plain text, by name.

    Raises:
        XMPError: it is no well-formed packet.
    """
    return {name: places[0].value for name, places in _Scanner(data, ()).packet.places.items()}


def change_fields(data: bytes, fields: dict[str, str]) -> bytes:
    """A packet with other values of some properties of the XMP namespace; every other byte is the same.

    Args:
        data: of a sidecar file, UTF-8.
        fields: new values by name; a property that is not there is added to the first description.

    Raises:
        XMPError: it is no well-formed packet, or has no description to add to.
    """
    packet = _Scanner(data, tuple(fields)).packet
    changes: list[tuple[int, int, bytes]] = []
    added = b""
    for name, value in fields.items():
        for place in packet.places.get(name, []):
            changes.append((place.start, place.end, _written(place, value)))
        if name not in packet.places:
            prefix, declared = _prefix(packet)
            if declared not in added:
                added += declared
            added += f" {prefix}:{name}={quoteattr(value)}".encode()
    if added:
        if packet.insert_at is None:
            raise XMPError("it has no rdf:Description that a rating could be added to")
        changes.append((packet.insert_at, packet.insert_at, added))
    changed = data
    for start, end, text in sorted(changes, reverse=True):
        changed = changed[:start] + text + changed[end:]
    _check(packet, changed, fields)
    return changed


def _check(before: Packet, changed: bytes, fields: dict[str, str]) -> None:
    """See that the new packet says what it should and otherwise what the old one said."""
    after = _Scanner(changed, tuple(fields)).packet
    found = {name: {place.value for place in after.places.get(name, [])} for name in fields}
    if found != {name: {value} for name, value in fields.items()} or after.rest != before.rest:
        raise XMPError("it is of a form in which the rating cannot be changed without touching something else")


def _prefix(packet: Packet) -> tuple[str, bytes]:
    """The prefix of the XMP namespace, and its declaration where there is none yet."""
    if packet.prefix:
        return packet.prefix, b""
    prefix = next(name for name in ("xmp", "xap", *(f"xmp{n}" for n in range(99))) if name not in packet.taken)
    return prefix, f' xmlns:{prefix}="{XMP}"'.encode()


def _written(place: _Place, value: str) -> bytes:
    if place.quoted:
        return quoteattr(value).encode()
    if place.empty is not None:
        return b"<" + place.empty + b">" + escape(value).encode() + b"</" + place.empty + b">"
    return escape(value).encode()


class _Scanner:
    """Walks through a packet once, with the places in bytes that expat tells.

    Args:
        data: of the packet.
        looked_for: names of properties that are left out of `rest`.
    """

    def __init__(self, data: bytes, looked_for: tuple[str, ...]) -> None:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]:
            raise XMPError("it is UTF-16 or UTF-32; only UTF-8 can be changed in place")
        self.data, self.packet, self._looked_for = data, Packet(), looked_for
        self._names: list[tuple[str, str]] = []  # (namespace, name) of the open elements
        self._scopes: list[dict[str, str]] = [{}]
        self._property: tuple[str, int, list[str]] | None = None  # the open element of a property, and its text
        parser = self._parser = expat.ParserCreate(encoding="utf-8")
        parser.buffer_text = False
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = self._text, self._doctype
        parser.CommentHandler = lambda text: self.packet.rest.append(("comment", text))
        parser.ProcessingInstructionHandler = lambda *what: self.packet.rest.append(("instruction", *what))
        parser.ordered_attributes = True
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise XMPError(f"it is not well-formed XML ({error})") from error
        if (RDF, "RDF") not in self._seen:
            raise XMPError("it has no rdf:RDF, so it is no XMP")

    @property
    def _seen(self) -> set[object]:
        return {entry[1] for entry in self.packet.rest if entry[0] == "element"}

    def _doctype(self, *_: object) -> None:
        raise XMPError("it has a document type, which XMP must not have")

    def _start(self, raw: str, flat: list[str]) -> None:
        attributes = list(zip(flat[::2], flat[1::2]))
        scope = self._scopes[-1] | {
            name.partition(":")[2]: value for name, value in attributes if name == "xmlns" or name.startswith("xmlns:")
        }
        name = _resolve(raw, scope)
        top = [(RDF, "RDF")] == self._names[-1:] and name == (RDF, "Description")
        inside = self._names[-2:] == [(RDF, "RDF"), (RDF, "Description")]
        self._names.append(name)
        self._scopes.append(scope)
        kept = []
        for attribute, value in attributes:
            space, local = _resolve(attribute, scope) if ":" in attribute else ("", attribute)
            if top and space == XMP:
                self._attribute(local, attribute, value)
            if attribute.startswith("xmlns") or (top and space == XMP and local in self._looked_for):
                continue  # one more declaration changes nothing
            kept.append((space, local, value))
        if top and self.packet.insert_at is None:
            self.packet.insert_at = self._parser.CurrentByteIndex + 1 + len(raw.encode())
            prefixes = [prefix for prefix, space in scope.items() if space == XMP and prefix]
            self.packet.prefix = prefixes[0] if prefixes else None
            self.packet.taken = frozenset(scope)
        if inside and name[0] == XMP:
            self._property = (name[1], self._tag_end(), [])
            if name[1] in self._looked_for:
                return
        self.packet.rest.append(("element", name, kept))

    def _attribute(self, local: str, raw: str, value: str) -> None:
        start = self._parser.CurrentByteIndex
        for found in _ATTRIBUTE.finditer(self.data, start, self._tag_end()):
            if found[1] == raw.encode():
                place = _Place(value, found.start(2), found.end(2), quoted=True)
                self.packet.places.setdefault(local, []).append(place)

    def _tag_end(self) -> int:
        """Behind the `>` of the start tag at the current place; in quotes a `>` ends nothing."""
        at, quote = self._parser.CurrentByteIndex, 0
        while True:
            byte = self.data[at]
            if quote:
                quote = 0 if byte == quote else quote
            elif byte in b"\"'":
                quote = byte
            elif byte == ord(">"):
                return at + 1
            at += 1

    def _text(self, text: str) -> None:
        if self._property:
            self._property[2].append(text)
            if self._property[0] in self._looked_for:
                return
        self._add_text(text)

    def _add_text(self, text: str) -> None:
        rest = self.packet.rest
        if rest and rest[-1][0] == "text":
            rest[-1] = ("text", rest[-1][1] + text)
        else:
            rest.append(("text", text))

    def _end(self, raw: str) -> None:
        name = self._names.pop()
        self._scopes.pop()
        if self._property and len(self._names) >= 2 and self._names[-2:] == [(RDF, "RDF"), (RDF, "Description")]:
            local, start, texts = self._property
            self._property = None
            closed = self.data[start - 2 : start] == b"/>"
            if closed:
                first = self.data.rindex(b"<", 0, start)
                place = _Place("", first, start, empty=raw.encode())
            else:
                place = _Place("".join(texts).strip(), start, self._parser.CurrentByteIndex)
            self.packet.places.setdefault(local, []).append(place)
            if local in self._looked_for:
                return
        self.packet.rest.append(("end", name))


def _resolve(raw: str, scope: dict[str, str]) -> tuple[str, str]:
    prefix, colon, local = raw.partition(":")
    return (scope.get(prefix, prefix), local) if colon else (scope.get("", ""), raw)
