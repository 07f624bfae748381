"""Seconds per volume and peak memory of a conversion at SpineMRI's size: `python benchmarks/conversion.py 16x1 16x2`.

Each argument is volumes x processes. Volumes are links to a few distinct phantoms of 880x880x12 voxels. For comparison,
reading and compressing an image and its mask is timed as well.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import SimpleITK as sitk

from nnunetv2_cafr.phantom import write_dataset

DISTINCT = 4
FILES = (("MR", "Case{}.nii.gz"), ("Mask", "mask_case{}.nii.gz"))
CONVERT = """
import resource, sys
from dataset_conversion.spinemri import main
status = main(sys.argv[1:])
print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
sys.exit(status)
"""


def links(pattern: Path, target: Path, count: int) -> Path:
    """A copy of the source with `count` cases, which takes no space."""
    for number in range(1, count + 1):
        for folder, name in FILES:
            link = target / "train" / folder / name.format(number)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(pattern / folder / name.format(1 + number % DISTINCT))
    return target


def seconds_to_read_and_compress(pattern: Path, scratch: Path) -> float:
    start = time.perf_counter()
    for number in range(1, DISTINCT + 1):
        for folder, name in FILES:
            volume = sitk.ReadImage(str(pattern / folder / name.format(number)))
            if folder == "Mask":
                volume = sitk.Cast(volume, sitk.sitkUInt8)
            sitk.WriteImage(volume, str(scratch / "written.nii.gz"), useCompression=True)
    return (time.perf_counter() - start) / DISTINCT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="VOLUMESxPROCESSES")
    runs = [tuple(map(int, run.split("x"))) for run in parser.parse_args().runs]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        pattern = write_dataset(root / "pattern", num_train=DISTINCT, size=(880, 880, 12), progress=False) / "train"
        print(f"read and compress, 1 process: {seconds_to_read_and_compress(pattern, root):.2f} s each")
        for count, processes in runs:
            source = links(pattern, root / "source", count)
            arguments = ["-i", source, "-d", "511", "-o", root / "raw", "-np", str(processes)]
            start = time.perf_counter()
            result = subprocess.run(
                [sys.executable, "-c", CONVERT, *arguments], check=True, capture_output=True, text=True
            )
            seconds = time.perf_counter() - start
            memory = int(result.stdout.split()[-1]) / 1024
            each = seconds / count
            print(f"{count} volumes, -np {processes}: {seconds:.1f} s, {each:.2f} s each, {memory:.0f} MiB a process")
            shutil.rmtree(root / "raw")
            shutil.rmtree(source)


if __name__ == "__main__":
    main()
