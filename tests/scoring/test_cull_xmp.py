"""Ratings in XMP packets: found in every form, and changed without touching another byte."""

from __future__ import annotations

import pytest

from cskd_hf.scoring.cull.xmp import XMPError, change_fields, new_packet, read_fields

RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
NS = 'xmlns:xmp="http://ns.adobe.com/xap/1.0/"'


def packet(inner: str) -> bytes:
    return f'<?xml version="1.0"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {RDF}>{inner}</rdf:RDF></x:xmpmeta>'.encode()


def description(attributes: str = "", inner: str = "") -> str:
    return f'\n <rdf:Description rdf:about=""{attributes}>{inner}</rdf:Description>\n'


DARKTABLE = description(
    f'\r\n  {NS}\r\n  xmlns:darktable="http://darktable.sf.net/"\r\n  xmp:Rating="RATING"\r\n  darktable:xmp_version="5"',
    "\r\n <!-- edits --><darktable:history><rdf:Seq><rdf:li darktable:params='a&#10;b &gt; \"'/></rdf:Seq></darktable:history>",
)
LIGHTROOM = description(
    f' {NS} xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"'
    f' dc:title=\'xmp:Rating="9" > here\' crs:Exposure2012="+0.50" xmp:Rating=\'RATING\' xmp:Label="Blue"',
    "<dc:subject><rdf:Bag><rdf:li>sea &amp; sky ümlaut</rdf:li></rdf:Bag></dc:subject>",
)
ELEMENT = description(f" {NS}", "\n  <xmp:CreatorTool>x</xmp:CreatorTool>\n  <xmp:Rating>RATING</xmp:Rating>\n")
SECOND = description() + description(' xmlns:xap="http://ns.adobe.com/xap/1.0/" xap:Rating="RATING"')


@pytest.mark.parametrize(
    "inner", [DARKTABLE, LIGHTROOM, ELEMENT, SECOND], ids=["darktable", "lightroom", "exiftool", "2"]
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "with BOM"])
def test_only_the_rating_changes(inner: str, mark: bytes):
    before = mark + packet(inner.replace("RATING", "2"))
    assert read_fields(before)["Rating"] == "2"
    after = change_fields(before, {"Rating": "5"})
    expected = mark + packet(inner.replace("RATING", "5").replace("xmp:Rating='5'", 'xmp:Rating="5"'))
    assert after == expected


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (description(f" {NS}"), description(f' {NS}').replace("Description rdf", 'Description xmp:Rating="4" rdf')),
        (description(), description().replace("Description rdf", f'Description {NS} xmp:Rating="4" rdf')),
        (
            description(' xmlns:xap="http://ns.adobe.com/xap/1.0/" xap:Label="a"'),
            description(' xmlns:xap="http://ns.adobe.com/xap/1.0/" xap:Label="a"').replace(
                "Description rdf", 'Description xap:Rating="4" rdf'
            ),
        ),
        (
            description(' xmlns:xmp="urn:another"'),
            description(' xmlns:xmp="urn:another"').replace(
                "Description rdf", 'Description xmlns:xap="http://ns.adobe.com/xap/1.0/" xap:Rating="4" rdf'
            ),
        ),
        (description(f" {NS}", "<xmp:Rating/>"), description(f" {NS}", "<xmp:Rating>4</xmp:Rating>")),
        (description(f" {NS}", "<xmp:Rating></xmp:Rating>"), description(f" {NS}", "<xmp:Rating>4</xmp:Rating>")),
    ],
    ids=["namespace there", "no namespace", "another prefix", "prefix taken", "empty element", "element without text"],
)  # fmt: skip
def test_a_rating_is_added(inner: str, expected: str):
    after = change_fields(packet(inner), {"Rating": "4"})
    assert after == packet(expected)
    assert read_fields(after)["Rating"] == "4"


def test_a_property_of_the_same_name_elsewhere_is_not_the_rating():
    inner = description(
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:acdsee="urn:a" acdsee:Rating="1"',
        '<acdsee:part rdf:parseType="Resource"><xmp:Rating>1</xmp:Rating></acdsee:part>',
    )
    assert "Rating" not in read_fields(packet(inner))
    after = change_fields(packet(inner), {"Rating": "3"})
    assert after == packet(inner.replace("Description rdf", 'Description xmp:Rating="3" rdf', 1))


def test_rating_and_label():
    after = change_fields(packet(description()), {"Rating": "3", "Label": 'a "b" & <c>'})
    assert read_fields(after) == {"Rating": "3", "Label": 'a "b" & <c>'}
    assert after.count(b"xmlns:xmp=") == 1
    assert read_fields(new_packet({"Rating": "1", "Label": "Green"})) == {"Rating": "1", "Label": "Green"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (packet(description()).decode().encode("utf-16"), "UTF-16"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]>' + packet(description())[22:], "document type"),
        (packet(description())[:-9], "not well-formed"),
        (b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>", "no rdf:RDF"),
        (packet("<x:Typed/>"), "no rdf:Description"),
        (packet(description(f" {NS}", "<xmp:Rating><x:a/>1</xmp:Rating>")), "without touching"),
    ],
)
def test_what_cannot_be_changed_safely_is_refused(data: bytes, reason: str):
    with pytest.raises(XMPError, match=reason):
        change_fields(data, {"Rating": "3"})
