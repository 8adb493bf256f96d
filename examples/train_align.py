r"""Phase 1: align an encoder with a frozen CLIP on unlabelled images.

    accelerate launch examples/train_align.py --encoder microsoft/resnet-18 --reference openai/clip-vit-base-patch32 \
        --images photos/ --output-dir runs/aligned

Plain `python` and `cskd-hf align` take the same arguments; `--help` explains every setting, and `--recipe FILE` reads
them from YAML (see hub_configs/recipes).
"""

import sys

from cskd_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["align", *sys.argv[1:]]))
