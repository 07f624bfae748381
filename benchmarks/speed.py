"""Speed beside nnU-Net's network: `python benchmarks/speed.py`, the same as `nnUNetv2_cafr cost --bench`."""

import sys

from nnunetv2_cafr.cli import main

if __name__ == "__main__":
    sys.exit(main(["cost", "--bench", *sys.argv[1:]]))
