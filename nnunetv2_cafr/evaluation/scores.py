"""What an evaluation leaves on disk: one row per case, class and view, one row per case for the levels, the settings.

Everything that tables, tests and figures say is computed from these files, so a reader can compute it again.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nnunetv2_cafr.evaluation.level_shifts import SHIFTS
from nnunetv2_cafr.files import partial_of

# One row per case, view and class. A class that neither label map holds has NaN in every metric; one that only one of
# them holds has Dice, IoU and NSD 0 and infinite distances. `label` is the number, for a region its text "(1, 2)", and
# 0 in the view "foreground". Volumes are areas in mm^2 where an image has a single slice.
# The views: "volume", the label in 3-D; "slices", mean over the slices that hold the class in either map, each scored
# in 2-D; "junctions", Dice and IoU in 3-D of the voxels near a vertebra-disc junction of the reference, where the
# labels are spine levels; "foreground", all labels as one.
CLASS_COLUMNS = (
    "case",
    "patient",
    "view",
    "label",
    "name",
    "reference_mm3",
    "prediction_mm3",
    "dice",
    "iou",
    "hd_mm",
    "hd95_mm",
    "assd_mm",
    "nsd",
)
OVERLAPS, DISTANCES = ("dice", "iou", "nsd"), ("hd_mm", "hd95_mm", "assd_mm")
METRICS = (*OVERLAPS, *DISTANCES)
# One row per case; `vertebrae` counts those of the reference, `right_level` those of them that carry the right level.
# `all_right` is 1 or 0; it and `instance_dice` are NaN in a case whose reference holds no vertebra. `structures` counts
# vertebrae and discs of the reference, `own_label_wins` those of them whose own label has most voxels.
LEVEL_COLUMNS = (
    "case",
    "patient",
    "diagonal_mm",
    "vertebrae",
    "found",
    "right_level",
    "shifted_up",
    "shifted_down",
    "all_right",
    "instance_dice",
    "structures",
    "own_label_wins",
)
# Two rows per case, whose `label_maps` is "as predicted" or "level-consistent": the same after level decoding from the
# labels alone. Vertebrae of the reference by level shift; `dice` is the mean over the classes of the reference; `flags`
# are the decoding's. No rows where the labels have no order.
SHIFT_COLUMNS = ("case", "patient", "label_maps", *SHIFTS, "dice", "flags")
CLASSES_FILE, LEVELS_FILE, SHIFTS_FILE, SETTINGS_FILE = (
    "classes.csv",
    "levels.csv",
    "level_shifts.csv",
    "evaluation.json",
)

REFERENCE_CHECKSUMS = "SHA-256 of the references"  # in the settings, by file name
_EARLIER = "an earlier version scored these predictions; remove {folder} and score them again"


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set of predictions.

    Args:
        classes: CLASS_COLUMNS; label maps in mm and mm^3.
        levels: LEVEL_COLUMNS; its columns from `vertebrae` on are NaN where the labels are no spine levels.
        settings: folders, checksums of the references, tools with versions, NSD tolerance in mm, policies in words.
        shifts: SHIFT_COLUMNS.
    """

    classes: pd.DataFrame
    levels: pd.DataFrame
    settings: dict[str, Any]
    shifts: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SHIFT_COLUMNS))

    def write(self, folder: Path) -> None:
        """Writes the four files, over earlier ones; where the settings stand, all belong together."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            CLASSES_FILE: self.classes.to_csv(index=False),
            LEVELS_FILE: self.levels.to_csv(index=False),
            SHIFTS_FILE: self.shifts.to_csv(index=False),
            SETTINGS_FILE: json.dumps(self.settings, indent=2) + "\n",
        }
        partials = {name: partial_of(folder / name) for name in texts}
        try:
            for name, text in texts.items():
                partials[name].write_text(text, encoding="utf-8")
            (folder / SETTINGS_FILE).unlink(missing_ok=True)
            for name, partial in partials.items():
                partial.replace(folder / name)
        finally:
            for partial in partials.values():
                partial.unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> "Evaluation":
        """Raises FileNotFoundError if a file is missing, ValueError if an earlier version wrote it."""
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        tables = {}
        for name, columns in (
            (CLASSES_FILE, CLASS_COLUMNS),
            (LEVELS_FILE, LEVEL_COLUMNS),
            (SHIFTS_FILE, SHIFT_COLUMNS),
        ):
            if name == SHIFTS_FILE and not (folder / name).is_file():
                raise ValueError(f"{folder} lacks {name}: {_EARLIER.format(folder=folder)}")
            tables[name] = pd.read_csv(
                folder / name,
                dtype={"case": str, "patient": str, "name": str, "flags": str},
                keep_default_na=False,  # a patient may be called NA
                na_values=[""],
                float_precision="round_trip",
            )
            if lacking := sorted(set(columns) - set(tables[name])):
                raise ValueError(f"{folder / name} lacks {', '.join(lacking)}: {_EARLIER.format(folder=folder)}")
        return cls(tables[CLASSES_FILE], tables[LEVELS_FILE], settings, tables[SHIFTS_FILE])
