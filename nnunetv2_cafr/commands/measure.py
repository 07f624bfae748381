"""`nnUNetv2_cafr measure`: label maps of a spine in mm, ml and degrees, whatever network or tool they are by.

Per level: volume, height of the body in front, in the middle and behind, width, wedge angle, slip against the level
below, disc height and disc height index; per study: lumbar lordosis, and Cobb angle where the series shows the curve.
What an image cannot give (a body that its edge cuts, too few voxels, oblique slices) is empty, with the reason beside
it. documentation/measurements.md defines all.

Beside measurements.csv and .json lie preview.html, all studies on one page with contours and level names, and names and
colours for viewers: labels.ctbl for 3D Slicer, labels.txt for ITK-SNAP.

A label map that cannot be measured does not stop the others: it is listed at the end, and the exit status is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.files import write_bytes, write_text
from nnunetv2_cafr.spine import unread_levels
from nnunetv2_cafr.spine_maps import add_labels_argument, check_target, read_spine_maps, tell_of_failed
from nnunetv2_cafr.viewers import ITKSNAP_FILE, SLICER_FILE, colour_files

EXAMPLES = """examples:
  nnUNetv2_cafr measure -i MAPS -o MEASUREMENTS
  nnUNetv2_cafr measure -i MAPS --images imagesTs -o MAPS              beside the maps; their grids are compared
  nnUNetv2_cafr measure -i MAPS --images imagesTs -o OUT --png         also a picture of each study
  nnUNetv2_cafr measure -i OTHER_TOOLS_MAPS -o MEASUREMENTS --labels dataset.json

exit status: 0 all studies were measured, 1 some could not be, 2 the call was refused
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", type=Path, required=True, metavar="MAPS", help="folder of label maps")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="IMAGES",
        help="folder of the images (CASE_0000 or CASE), which the page shows; a map that does not lie on its image's "
        "grid is refused",
    )
    parser.add_argument("-o", type=Path, required=True, metavar="OUT", help="where all is written; may be MAPS")
    parser.add_argument("--png", action="store_true", help="also a picture of each study, OUT/preview/CASE.png")
    add_labels_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from nnunetv2_cafr.levels.files import decoding_of, read_decodings
    from nnunetv2_cafr.measurements.label_map import read_label_map
    from nnunetv2_cafr.measurements.tables import JSON_FILE, TABLE_FILE, as_json, table_files
    from nnunetv2_cafr.preview import PAGE_FILE, PICTURES
    from nnunetv2_cafr.preview.page import part_of, render
    from nnunetv2_cafr.preview.study import NOT_MEASURED, TOLD, Labels, StudyPreview, preview

    source, target = arguments.i, arguments.o
    found = read_spine_maps(source, arguments.labels, "Nothing can be measured")
    if unread := unread_levels(found.labels, found.spine):
        print(f"Left out, as names that are read as no level (expected are such as L5, L4/L5): {shorten(unread)}")
    images = _images(arguments.images, list(found.maps), found.ending)
    check_target(
        target, (TABLE_FILE, JSON_FILE, SLICER_FILE, ITKSNAP_FILE, PAGE_FILE, *[PICTURES] * bool(arguments.png))
    )
    try:
        decodings = read_decodings(source)
    except ValueError as error:
        raise UserError(str(error)) from error

    allowed, labels = frozenset(map(int, found.labels.values())), Labels.of(found.description)
    studies: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    parts = []
    pictures: dict[str, bytes] = {}
    for case, path in tqdm(found.maps.items(), unit="study"):
        try:
            mask, image = read_label_map(path, allowed, images.get(case))
            one = preview(case, mask, image, labels, decoding_of(path, decodings.get(case)), png=arguments.png)
            if one.measurements is None:
                failed[case] = f"{path} cannot be measured: {one.doubts[NOT_MEASURED]}"
            else:
                studies[case] = as_json(one.measurements)
                told = [f"{kind} ({why})" for kind, why in one.doubts.items() if kind in TOLD]
                if told:
                    doubtful[case] = "; ".join(told)
        except (ValueError, OSError, MemoryError) as error:
            failed[case] = str(error) or type(error).__name__
            one = StudyPreview(case, doubts={NOT_MEASURED: failed[case]})
        parts.append(part_of(one))
        if one.png:
            pictures[f"{PICTURES}/{case}.png"] = one.png
    if studies:
        (target / PICTURES if pictures else target).mkdir(parents=True, exist_ok=True)
        settings = {"maps": str(source), "images": str(arguments.images or ""), "labels": str(found.file)}
        about = {"Label maps": source, "Images": arguments.images or "not given", "Labels": found.file}
        page = render(parts, source.resolve().name, about)
        files = colour_files(found.labels) | table_files(studies, failed, settings) | {PAGE_FILE: page}
        for name, text in files.items():
            write_text(target / name, text)
        for name, png in pictures.items():
            write_bytes(target / name, png)
        levels = [level for study in studies.values() for level in study["levels"]]
        empty = sum(bool(level["reasons"]) for level in levels)
        print(f"{len(studies)} studies, {len(levels)} levels, of which {empty} have an empty value with its reason")
        print(f"{', '.join(sorted(files) + [f'{PICTURES}/'] * bool(pictures))} written to {target}")
    if doubtful:
        print(f"Levels or measures are doubtful in {len(doubtful)} of {len(studies)} studies (see {PAGE_FILE}):")
        print("\n".join(f"  {case}: {doubts}" for case, doubts in doubtful.items()))
    return tell_of_failed(failed, len(found.maps))


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
