"""What an evaluation leaves on disk: one row per case, class and view, one row per case for the levels, the settings.

Everything that tables, tests and figures say is computed from these files, so a reader can compute it again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

# One row per case, view and class. A class that neither label map holds has NaN in every metric; one that only one of
# them holds has Dice, IoU and NSD 0 and infinite distances.
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
# "volume": the label in 3-D. "slices": mean over the slices that hold the class in either map, each scored in 2-D.
# "junctions": in 3-D, only voxels near a vertebra-disc junction of the reference. "foreground": all labels as one.
VIEWS = ("volume", "slices", "junctions", "foreground")
# One row per case; `vertebrae` counts those of the reference, `right_level` those of them that carry the right level.
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
)
CLASSES_FILE, LEVELS_FILE, SETTINGS_FILE = "classes.csv", "levels.csv", "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set of predictions.

    Args:
        classes: CLASS_COLUMNS; label maps in mm and mm^3.
        levels: LEVEL_COLUMNS; its columns from `vertebrae` on are NaN where the labels are no spine levels.
        settings: folders, tools with versions, NSD tolerance in mm, policies in words.
    """

    classes: pd.DataFrame
    levels: pd.DataFrame
    settings: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Writes the three files; the settings last, so where they stand the evaluation is complete."""
        folder.mkdir(parents=True, exist_ok=True)
        self.classes.to_csv(folder / CLASSES_FILE, index=False)
        self.levels.to_csv(folder / LEVELS_FILE, index=False)
        (folder / SETTINGS_FILE).write_text(json.dumps(self.settings, indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Evaluation":
        """Raises FileNotFoundError if a file is missing."""
        as_text = {"case": str, "patient": str, "name": str}
        return cls(
            pd.read_csv(folder / CLASSES_FILE, dtype=as_text, keep_default_na=True),
            pd.read_csv(folder / LEVELS_FILE, dtype={"case": str, "patient": str}),
            json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8")),
        )
