"""Score the images of a folder with a trained model, the best first.

    python examples/score_images.py --model runs/demo/student photos/
    python examples/score_images.py --model runs/demo/student photos/ holiday.jpg --top 10 --output scores.csv

The same as `cskd-hf score`; `--help` lists the options.
"""

from __future__ import annotations

import sys

from cskd_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
