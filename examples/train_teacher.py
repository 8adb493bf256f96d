r"""Phase 2: fine-tune an aligned encoder on rated images.

    accelerate launch examples/train_teacher.py --encoder runs/aligned --ratings ratings.csv \
        --output-dir runs/teacher

Plain `python` and `cskd-hf teacher` take the same arguments; `--help` explains every setting, and `--recipe FILE` reads
them from YAML (see hub_configs/recipes).
"""

import sys

from cskd_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["teacher", *sys.argv[1:]]))
