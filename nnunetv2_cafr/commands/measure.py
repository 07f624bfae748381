"""`nnUNetv2_cafr measure`: label maps of a spine in mm, ml and degrees, whatever network or tool they are by.

Per level: volume, height of the body in front, in the middle and behind, width, wedge angle, slip against the level
below, disc height and disc height index; per study: lumbar lordosis. What an image cannot give (a body that its edge
cuts, too few voxels, oblique slices) is empty, with the reason beside it. documentation/measurements.md defines all.

Beside measurements.csv and .json lie names and colours for viewers: labels.ctbl for 3D Slicer, labels.txt for ITK-SNAP.

A label map that cannot be measured does not stop the others: it is listed at the end, and the exit status is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.spine_maps import add_labels_argument, check_target, read_spine_maps
from nnunetv2_cafr.viewers import ITKSNAP_FILE, SLICER_FILE, write_colours

if TYPE_CHECKING:
    from nnunetv2_cafr.measurements.study import StudyMeasurements

EXAMPLES = """examples:
  nnUNetv2_cafr measure -i MAPS -o MEASUREMENTS
  nnUNetv2_cafr measure -i MAPS --images imagesTs -o MAPS              beside the maps; their grids are compared
  nnUNetv2_cafr measure -i OTHER_TOOLS_MAPS -o MEASUREMENTS --labels dataset.json

exit status: 0 all studies were measured, 1 some could not be, 2 the call was refused
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", type=Path, required=True, metavar="MAPS", help="folder of label maps")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="IMAGES",
        help="folder of the images (CASE_0000 or CASE); a map that does not lie on its image's grid is refused",
    )
    parser.add_argument("-o", type=Path, required=True, metavar="OUT", help="tables, names and colours; may be MAPS")
    add_labels_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from nnunetv2_cafr.measurements.label_map import read_label_map
    from nnunetv2_cafr.measurements.study import measure
    from nnunetv2_cafr.measurements.tables import JSON_FILE, TABLE_FILE, write_tables

    source, target = arguments.i, arguments.o
    found = read_spine_maps(source, arguments.labels, "Nothing can be measured")
    labels, maps = found.labels, found.maps
    images = _images(arguments.images, list(maps), found.ending)
    check_target(target, (TABLE_FILE, JSON_FILE, SLICER_FILE, ITKSNAP_FILE))

    allowed = frozenset(map(int, labels.values()))
    studies: dict[str, StudyMeasurements] = {}
    failed = {}
    for case, path in tqdm(maps.items(), unit="study"):
        try:
            label_map = read_label_map(path, allowed, images.get(case))
            try:
                studies[case] = measure(label_map, found.spine)
            except ValueError as error:
                raise ValueError(f"{path} cannot be measured: found {error}") from error
        except (ValueError, OSError, MemoryError) as error:
            failed[case] = str(error) or type(error).__name__
    if studies:
        target.mkdir(parents=True, exist_ok=True)
        settings = {"maps": str(source), "images": str(arguments.images or ""), "labels": str(found.file)}
        write_colours(target, labels)
        write_tables(target, studies, failed, settings)
        levels = [level for study in studies.values() for level in study.levels]
        empty = sum(bool(level.reasons) for level in levels)
        print(f"{len(studies)} studies, {len(levels)} levels, of which {empty} have an empty value with its reason")
        print(f"{TABLE_FILE}, {JSON_FILE}, {SLICER_FILE} and {ITKSNAP_FILE} written to {target}")
    if failed:
        print(f"{len(failed)} of {len(maps)} studies failed:")
        print("\n".join(f"  {case}: {reason}" for case, reason in failed.items()))
        return 1
    return 0


def _images(folder: Path | None, cases: list[str], ending: str) -> dict[str, Path]:
    """The image of every case; none without a folder.

    Raises:
        UserError: with the cases that have none.
    """
    from dataset_conversion.reading import ENDINGS

    if folder is None:
        return {}
    found = {}
    for case in cases:
        names = [f"{case}{channel}{one}" for one in (ending, *ENDINGS) for channel in ("_0000", "")]
        image = next((folder / name for name in names if (folder / name).is_file()), None)
        if image is not None:
            found[case] = image
    if missing := [case for case in cases if case not in found]:
        raise UserError(
            f"{folder} lacks the images of {len(missing)} of {len(cases)} label maps: {shorten(missing)}. Expected are "
            f"{missing[0]}_0000{ending} or {missing[0]}{ending}; without --images the grids are not compared"
        )
    return found
