"""Measure a checkpoint on rated images, with 95 % bootstrap intervals.

python examples/evaluate_iaa.py runs/student ratings.csv --split validation
"""

import argparse
import sys

import evaluate
import torch
from transformers import AutoImageProcessor, AutoModel

import cskd_hf
from cskd_hf.data.ratings import select_split
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.metrics import bootstrap_intervals, iaa_module_path
from cskd_hf.evaluation.predict import RatedImages, predict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint: Hub name or folder")
    parser.add_argument("ratings", help="rated images: CSV, TSV, JSONL, Parquet, or a saved dataset")
    parser.add_argument("--split", default="test", help="split to measure on (default: %(default)s)")
    parser.add_argument("--image-dir", help="folder that the ratings' image paths start from")
    parser.add_argument(
        "--score-values", type=float, nargs="+", help="value of each bin, for ratings without histograms"
    )
    args = parser.parse_args()

    ratings = cskd_hf.load_ratings(args.ratings, image_dir=args.image_dir, score_values=args.score_values)
    model = AutoModel.from_pretrained(args.model, dtype=torch.float32)
    preprocessing = Preprocessing.from_image_processor(AutoImageProcessor.from_pretrained(args.model))
    images = RatedImages(select_split(ratings, args.split), preprocessing)
    rows, scores, _ = predict(model, images)
    for key, reason in images.unreadable.items():
        print(f"left out: {key} ({reason})", file=sys.stderr)

    figures = evaluate.load(str(iaa_module_path())).compute(predictions=scores, references=images.means[rows])
    intervals = bootstrap_intervals(scores, images.means[rows])
    print(f"{len(rows)} images of the split '{args.split}'")
    for name, value in figures.items():
        interval = f"  [{intervals[name][0]:.4f}, {intervals[name][1]:.4f}]" if name in intervals else ""
        print(f"{name:>9} {value:8.4f}{interval}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
