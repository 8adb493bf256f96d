"""Measure a checkpoint on rated images, or compare two, with 95 % bootstrap intervals.

    python examples/evaluate_iaa.py runs/student ratings.csv --split validation --output runs/student/evaluation
    torchrun --nproc-per-node 2 examples/evaluate_iaa.py runs/student ava:datasets/AVA --against runs/other

The same as `cskd-hf evaluate`; `--help` lists the options.
"""

import sys

from cskd_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
