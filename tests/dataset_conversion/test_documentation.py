"""What documentation/data.md shows works as it stands there."""

import json
import re
import types
from collections.abc import Callable
from pathlib import Path

import SimpleITK as sitk

from dataset_conversion.folder import read_layout

PAGE = (Path(__file__).parents[2] / "documentation" / "data.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    (found,) = (text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if containing in text)
    return str(found)


def test_example_of_a_source(tmp_path: Path, make_pair: Callable[..., tuple[sitk.Image, sitk.Image]]) -> None:
    module = types.ModuleType("myhospital")
    exec(block("python", "MyHospital"), module.__dict__)
    for folder, volume in zip(("scans", "masks"), make_pair((20, 19, 119)), strict=True):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(volume, str(tmp_path / folder / "7_1.nii.gz"))
    assert module.main(["-i", str(tmp_path), "-d", "514", "-o", str(tmp_path / "raw"), "-np", "1"]) == 0
    target = tmp_path / "raw" / "Dataset514_MyHospital"
    assert json.loads((target / "dataset.json").read_text())["labels"] == {
        "background": 0, "L5": 1, "L4": 2, "L4/L5": 3
    }  # fmt: skip
    assert json.loads((target / "provenance.json").read_text())["cases"]["MyHospital_7_1"]["patient"] == "7"


def test_example_of_a_layout(tmp_path: Path) -> None:
    (tmp_path / "layout.yaml").write_text(block("yaml", "MySpine"))
    layout = read_layout(tmp_path / "layout.yaml")
    assert [structure.name for structure in layout.table.values()] == ["L5", "L4", "L5/S", "L4/L5", "ignore"]
