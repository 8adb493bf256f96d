"""More small rated data sets in their published layouts; see `rated_layouts`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from rated_layouts import draw, write_table


def write_flickr_aes(folder: Path, train: int = 24, test: int = 8) -> Path:
    """FLICKR-AES_image_score.txt, ..._labeled_by_each_worker.csv (a blank in front of each image), 40K/, a test list."""
    drawn = draw({"train": train, "test": test})
    scores, votes = [], []
    for one in drawn:
        name = f"farm1_{one.number}_b.jpg"
        one.save(folder / "40K" / name)
        ratings = [int(np.clip(round(1 + 4 * one.quality + one.rng.normal() / 2), 1, 5)) for _ in range(5)]
        scores.append(f"{name} {np.clip(0.2 + 0.8 * one.quality, 0.2, 1):.3f}")
        first = 8 if one.split == "test" else 0  # workers 0 to 7 for training, 8 to 12 for the test
        workers = [f"A{first + (one.number + at) % (5 if first else 8)}" for at in range(5)]
        votes += [[worker, f" {name}", f" {rating}"] for worker, rating in zip(workers, ratings)]
    (folder / "FLICKR-AES_image_score.txt").write_text("\n".join(scores) + "\n")
    write_table(folder / "FLICKR-AES_image_labeled_by_each_worker.csv", ["worker", " imagePair", " score"], votes)
    listed = [{"image": f"FLICKR/farm1_{one.number}_b.jpg", "gt_score": 3.0} for one in drawn if one.split == "test"]
    (folder / "test.json").write_text(json.dumps(listed))
    return folder


def write_tad66k(folder: Path, train: int = 24, test: int = 8) -> Path:
    """merge/{train,test}.csv and unmerge/{train,test}/THEME.csv with CRLF line ends, images in TAD66K/."""
    drawn = draw({"train": train, "test": test})
    for split in ("train", "test"):
        chosen = [one for one in drawn if one.split == split]
        rows = [[f"someone{one.number}.jpg", one.rating(1, 10)] for one in chosen]
        write_table(folder / "merge" / f"{split}.csv", ["image", "score"], rows)
        for at, theme in enumerate(("animal", "beach")):
            write_table(folder / "unmerge" / split / f"{theme}.csv", ["image", "score"], rows[at::2])
    for one in drawn:
        one.save(folder / "TAD66K" / f"someone{one.number}.jpg")
    return folder


def write_koniq10k(folder: Path, train: int = 24, validation: int = 8, test: int = 8) -> Path:
    """koniq10k_distributions_sets.csv: shares of the votes, and a standardised MOS; images in 1024x768/."""
    rows = []
    for one in draw({"training": train, "validation": validation, "test": test}):
        one.save(folder / "1024x768" / f"{one.number}.jpg")
        votes = one.votes(range(1, 6), 105)
        rows.append(
            [f"{one.number}.jpg", *(f"{count / 105:.12g}" for count in votes), 105, one.rating(0, 100), 0.5, one.split]
        )
    header = ["image_name", "c1", "c2", "c3", "c4", "c5", "c_total", "MOS", "SD", "set"]
    write_table(folder / "koniq10k_distributions_sets.csv", header, rows)
    return folder


def write_koniq10k_scores(folder: Path, images: int = 40) -> Path:
    """koniq10k_scores_and_distributions.csv: vote counts, their mean, the standardised MOS, no split."""
    rows = []
    for one in draw({"": images}):
        one.save(folder / "512x384" / f"{one.number}.jpg")
        votes = one.votes(range(1, 6), 105)
        mean = sum(value * count for value, count in enumerate(votes, start=1)) / 105
        rows.append([f"{one.number}.jpg", *votes, 105, f"{mean:.6f}", 0.5, one.rating(0, 100)])
    header = ["image_name", "c1", "c2", "c3", "c4", "c5", "c_total", "MOS", "SD", "MOS_zscore"]
    write_table(folder / "koniq10k_scores_and_distributions.csv", header, rows)
    return folder


SPAQ_SCENES = ("Animal", "Cityscape", "Human", "Indoor scene", "Landscape", "Night scene", "Plant", "Still-life", "Others")  # fmt: skip


def write_spaq(folder: Path, train: int = 24, test: int = 8) -> Path:
    """Annotations/*.xlsx, TestImage/00001.jpg, and a list of test images in the form of Q-Align's."""
    scores, scenes, listed = [], [], []
    for one in draw({"train": train, "test": test}):
        name = f"{one.number - 245:05d}.jpg"  # of these, some are for validation by their hash
        one.save(folder / "TestImage" / name)
        scores.append([name, one.rating(0, 100), *(one.rating(0, 100) for _ in range(5))])
        scenes.append([name, *(int(at in (one.number % 9, (one.number + 4) % 9)) for at in range(9))])
        listed += [{"image": f"spaq/{name}", "gt_score": 3.0}] if one.split == "test" else []
    header = ["Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]
    write_xlsx(folder / "Annotations" / "MOS and Image attribute scores.xlsx", [header, *scores])
    write_xlsx(folder / "Annotations" / "Scene category labels.xlsx", [["Image name", *SPAQ_SCENES], *scenes])
    (folder / "test.json").write_text(json.dumps(listed))
    return folder


def write_baid(folder: Path, train: int = 24, validation: int = 8, test: int = 8) -> Path:
    """dataset/{train,val,test}_set.csv, images/."""
    drawn = draw({"train": train, "val": validation, "test": test})
    for split in ("train", "val", "test"):
        rows = [[f"{one.number}.jpg", one.rating(2.7, 10)] for one in drawn if one.split == split]
        write_table(folder / "dataset" / f"{split}_set.csv", ["image", "score"], rows)
    for one in drawn:
        one.save(folder / "images" / f"{one.number}.jpg")
    return folder


def write_xlsx(path: Path, rows: Sequence[Sequence], *, shared: bool = True) -> None:
    """A workbook of one sheet as spreadsheet programs write it: texts in one shared table, or (`shared=False`) inline."""
    texts: dict[str, int] = {}
    lines = []
    for number, row in enumerate(rows, start=1):
        cells = []
        for at, value in enumerate(row):
            place = f"{chr(ord('A') + at)}{number}"
            if value is None:
                continue
            if not isinstance(value, str):
                cells.append(f'<c r="{place}"><v>{value}</v></c>')
            elif shared:
                cells.append(f'<c r="{place}" t="s"><v>{texts.setdefault(value, len(texts))}</v></c>')
            else:
                cells.append(f'<c t="inlineStr"><is><r><t>{escape(value)}</t></r></is></c>')
        lines.append(f'<row r="{number}">{"".join(cells)}</row>')
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    items = "".join(f"<si><t>{escape(text)}</t></si>" for text in texts)
    parts = {
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{relations}"><sheets><sheet name="Sheet1" sheetId="1" '
        'r:id="rId3"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}"><Relationship Id="rId1" Target="styles.xml"/>'
        '<Relationship Id="rId3" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{"".join(lines)}</sheetData></worksheet>',
    }
    if shared:
        parts["xl/sharedStrings.xml"] = f'<sst xmlns="{main}">{items}</sst>'
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as book:
        for name, text in parts.items():
            book.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + text)


WRITERS = {
    "flickr-aes": write_flickr_aes,
    "flickr-aes-votes": write_flickr_aes,
    "tad66k": write_tad66k,
    "koniq10k": write_koniq10k,
    "koniq10k-mos": write_koniq10k,
    "spaq": write_spaq,
    "baid": write_baid,
}
