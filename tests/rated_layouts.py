"""Small rated data sets in the exact layouts in which the real ones are published: generated images, drawn votes.

Each function writes one data set below `folder` and returns the folder, so that `NAME:FOLDER` reads it. Brighter images
are rated better, so there is something to learn.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 32)


class Drawn:
    """One generated image: what it is called, how good it is (0..1), and its split."""

    def __init__(self, number: int, split: str, rng: np.random.Generator) -> None:
        self.number, self.split = number, split
        self.quality = float(rng.uniform(0.1, 0.9))
        pixels = rng.normal(255 * self.quality, 40, (SIZE[1], SIZE[0], 3)).clip(0, 255)
        self.image = Image.fromarray(pixels.astype(np.uint8))
        self.rng = rng

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.image.save(path, quality=90)

    def votes(self, values: Sequence[float], total: int = 30) -> list[int]:
        """A histogram over `values`, around the quality."""
        values = np.asarray(values, dtype=float)
        centre = values[0] + (values[-1] - values[0]) * self.quality
        chances = np.exp(-(((values - centre) / (values[-1] - values[0]) * 6) ** 2))
        return self.rng.multinomial(total, chances / chances.sum()).tolist()

    def rating(self, low: float, high: float) -> float:
        return round(float(np.clip(low + (high - low) * (self.quality + self.rng.normal(0, 0.05)), low, high)), 3)


def draw(counts: dict[str, int], seed: int = 0) -> list[Drawn]:
    """Images of each split, numbered from 1001."""
    rng = np.random.default_rng(seed)
    splits = [split for split, count in counts.items() for _ in range(count)]
    return [Drawn(1001 + at, split, rng) for at, split in enumerate(splits)]


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)


def write_ava(folder: Path, train: int = 24, test: int = 8) -> Path:
    """AVA.txt, aesthetics_image_lists/generic_test.jpgl, tags.txt, challenges.txt, images/<id>.jpg."""
    drawn = draw({"train": train, "test": test})
    lines, listed = [], []
    for row, one in enumerate(drawn, start=1):
        one.save(folder / "images" / f"{one.number}.jpg")
        votes = " ".join(map(str, one.votes(range(1, 11), 100)))
        lines.append(f"{row} {one.number} {votes} {row % 3} 0 {1396 + row % 2}")
        listed += [str(one.number)] if one.split == "test" else []
    (folder / "AVA.txt").write_text("\n".join(lines) + "\n")
    (folder / "tags.txt").write_text("1 Abstract\n2 Cityscape\n")
    (folder / "challenges.txt").write_text("1396 100_Meters\n1397 Blue_Hour\n")
    (folder / "aesthetics_image_lists").mkdir()
    (folder / "aesthetics_image_lists" / "generic_test.jpgl").write_text("\n".join(listed) + "\n")
    return folder


def write_ava_tanet(folder: Path, train: int = 24, validation: int = 8, test: int = 8) -> Path:
    """train.csv, val.csv, test.csv with score2..score11, images/<id>.jpg."""
    header = ["image_id", *[f"score{number}" for number in range(2, 12)], "tag1", "tag2", "tag3"]
    drawn = draw({"train": train, "val": validation, "test": test})
    for split in ("train", "val", "test"):
        chosen = [one for one in drawn if one.split == split]
        rows = [[one.number, *one.votes(range(1, 11), 100), 1, 0, 1396] for one in chosen]
        write_table(folder / f"{split}.csv", header, rows)
    for one in drawn:
        one.save(folder / "images" / f"{one.number}.jpg")
    return folder


def write_ava_idealo(folder: Path, train: int = 24, test: int = 8) -> Path:
    """ava_labels_{train,test}.json, images/<id>.jpg."""
    drawn = draw({"train": train, "test": test})
    for split in ("train", "test"):
        items = [
            {"image_id": str(one.number), "label": one.votes(range(1, 11), 100)} for one in drawn if one.split == split
        ]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"ava_labels_{split}.json").write_text(json.dumps(items))
    for one in drawn:
        one.save(folder / "images" / f"{one.number}.jpg")
    return folder


def write_ava_pyiqa(folder: Path, train: int = 24, test: int = 8) -> Path:
    """meta_info_AVADataset.csv, images/<id>.jpg; the ILGnet split is another."""
    drawn = draw({"train": train, "test": test})
    header = ["img_name", "MOS", *[f"c{value}" for value in range(1, 11)], "semantic_tag1", "semantic_tag2"]
    rows = []
    for at, one in enumerate(drawn):
        one.save(folder / "images" / f"{one.number}.jpg")
        votes = one.votes(range(1, 11), 100)
        mean = sum(value * count for value, count in enumerate(votes, start=1)) / 100
        official, ilgnet = 2 * (one.split == "test"), (0, 1, 2, 0)[at % 4]
        rows.append([f"{one.number}.jpg", f"{mean:.3}", *votes, 1, 0, official, ilgnet])
    write_table(folder / "meta_info_AVADataset.csv", [*header, "official split", "ILGnet split"], rows)
    return folder


AADB_ATTRIBUTES = (
    "BalacingElements", "ColorHarmony", "Content", "DoF", "Light", "MotionBlur", "Object", "Repetition",
    "RuleOfThirds", "Symmetry", "VividColor",
)  # fmt: skip


def write_aadb(folder: Path, train: int = 24, validation: int = 8, test: int = 8) -> Path:
    """imgListFiles_label/imgList*Regression_*.txt, datasetImages_originalSize/, AADB_newtest_originalSize/."""
    labels = folder / "imgListFiles_label"
    labels.mkdir(parents=True)
    drawn = draw({"Train": train, "Validation": validation, "TestNew": test})
    for split in ("Train", "Validation", "TestNew"):
        chosen = [one for one in drawn if one.split == split]
        for name in ("score", *AADB_ATTRIBUTES):
            low = 0 if name in ("score", "Repetition", "Symmetry") else -1
            lines = [f"farm1_{one.number}_b.jpg {one.rating(low, 1)}" for one in chosen]
            (labels / f"imgList{split}Regression_{name}.txt").write_text("\n".join(lines) + "\n")
        for one in chosen:  # the files of the new test set start with their score
            prefix, place = ("0.500_", "AADB_newtest") if split == "TestNew" else ("", "datasetImages")
            one.save(folder / f"{place}_originalSize" / f"{prefix}farm1_{one.number}_b.jpg")
    return folder


def write_aadb_mat(folder: Path, train: int = 24, test: int = 8) -> Path:
    """AADBinfo.mat and datasetImages_warp256/."""
    from scipy.io import savemat

    data = {}
    drawn = draw({"train": train, "test": test})
    for split in ("train", "test"):
        chosen = [one for one in drawn if one.split == split]
        names = np.empty((1, len(chosen)), dtype=object)
        names[0] = [f"farm1_{one.number}_b.jpg" for one in chosen]
        data |= {f"{split}NameList": names, f"{split}Score": np.array([[one.rating(0, 1) for one in chosen]])}
    for one in drawn:
        one.save(folder / "datasetImages_warp256" / f"farm1_{one.number}_b.jpg")
    savemat(folder / "AADBinfo.mat", data)
    return folder


PARA_VALUES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)


def write_para(folder: Path, train: int = 24, test: int = 8) -> Path:
    """annotation/PARA-Giaa{Train,Test}.csv, imgs/session<N>/iaa_pub<K>_.jpg; the columns that matter, in their order."""
    means = ["compositionScore", "colorScore", "dofScore", "lightScore", "contentScore", "contentPreference"]
    means += ["willingnessToShare"]
    header = ["imageName", "sessionId", "semantic", *[f"aestheticScore_{value}" for value in PARA_VALUES]]
    header += [f"{name}_{what}" for name in ("aestheticScore", "qualityScore") for what in ("mean", "std")]
    header += [f"{name}_{what}" for name in means for what in (1, 2, 3, 4, 5, "mean", "std")]
    header += [
        "difficultyOfJudgment_mean",
        "difficultyOfJudgment_std",
        "isObjectEmphasis_mean",
        "isObjectEmphasis_std",
    ]
    drawn = draw({"Train": train, "Test": test})
    for split in ("Train", "Test"):
        rows = []
        for one in drawn:
            if one.split != split:
                continue
            image, session = f"iaa_pub{one.number}_.jpg", f"session{one.number % 3}"
            one.save(folder / "imgs" / session / image)
            votes = one.votes(PARA_VALUES, 25)
            mean = sum(value * count for value, count in zip(PARA_VALUES, votes)) / 25
            row = [image, session, ("plant", "portrait")[one.number % 2], *votes, round(mean, 4), 0.5]
            row += [one.rating(1, 5), 0.4]
            for _ in means:
                row += [0, 1, 2, 1, 0, one.rating(1, 5), 0.6]
            rows.append([*row, 0.1, 0.2, 0.8, 0.4])
        write_table(folder / "annotation" / f"PARA-Giaa{split}.csv", header, rows)
    return folder


def write_eva(folder: Path, images: int = 40, votes: int = 8) -> Path:
    """data/votes_filtered.csv and data/image_content_category.csv, images/EVA_together/<id>.jpg."""
    header = [
        "image_id",
        "user_id",
        "score",
        "difficulty",
        "visual",
        "composition",
        "quality",
        "semantic",
        "vote_time",
    ]
    rows, categories = [], []
    for one in draw({"": images}):
        one.save(folder / "images" / "EVA_together" / f"{one.number}.jpg")
        categories.append([one.number, 1 + one.number % 6])
        for vote in range(votes):
            score = int(np.clip(round(10 * one.quality + one.rng.normal()), 0, 10))
            attributes = [int(np.clip(round(1 + 3 * one.quality + one.rng.normal() / 2), 1, 4)) for _ in range(4)]
            rows.append([one.number, f"E{vote}", score, 3, *attributes, 12.5, 1, 0, 0, 1])
    write_table(folder / "data" / "votes_filtered.csv", [*header, "1", "2", "3", "4"], rows, delimiter="=")
    write_table(folder / "data" / "image_content_category.csv", ["image_id", "sort"], categories)
    return folder


WRITERS = {
    "ava": write_ava,
    "ava-tanet": write_ava_tanet,
    "ava-idealo": write_ava_idealo,
    "ava-pyiqa": write_ava_pyiqa,
    "aadb": write_aadb,
    "para": write_para,
    "eva": write_eva,
}
"""One writer for each reader of the registry."""
