"""Measure a checkpoint on rated images, with 95 % bootstrap intervals.

python examples/evaluate_iaa.py runs/student ratings.csv --split validation
"""

import argparse
import sys

from cskd_hf.data.ratings import load_ratings, score_values_of, select_split
from cskd_hf.evaluation.metrics import bootstrap_intervals
from cskd_hf.evaluation.predict import RatedImages, load_scorer, predict, rated_metrics


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

    ratings = load_ratings(args.ratings, image_dir=args.image_dir, score_values=args.score_values)
    model, preprocessing = load_scorer(args.model)
    if list(model.config.score_values) != list(score_values_of(ratings)):
        parser.error(f"the model rates on {model.config.score_values}, the ratings are on {score_values_of(ratings)}")
    images = RatedImages(select_split(ratings, args.split), preprocessing)
    rows, scores, distributions = predict(model, images)
    for key, reason in images.unreadable.items():
        print(f"left out: {key} ({reason})", file=sys.stderr)

    figures = rated_metrics(images, rows, scores, distributions)
    intervals = bootstrap_intervals(scores, images.means[rows])
    print(f"{len(rows)} images of the split '{args.split}'")
    for name, value in figures.items():
        interval = f"  [{intervals[name][0]:.4f}, {intervals[name][1]:.4f}]" if name in intervals else ""
        print(f"{name:>9} {value:8.4f}{interval}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
