r"""Phase 2: distil a teacher into a light student on rated and unrated images.

    accelerate launch examples/train_student.py --encoder runs/aligned --teacher runs/teacher --ratings ratings.csv \
        --images photos/ --output-dir runs/student

Plain `python` and `cskd-hf student` take the same arguments; `--help` explains every setting, and `--recipe FILE` reads
them from YAML (see hub_configs/recipes).
"""

import sys

from cskd_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["student", *sys.argv[1:]]))
