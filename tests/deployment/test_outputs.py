"""Nothing of the user's is lost: no input and no file that this network did not write is overwritten, or skipped."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_cafr.deployment import model as deployed
from nnunetv2_cafr.deployment.description import Description
from nnunetv2_cafr.deployment.label_maps import LabelMaps
from nnunetv2_cafr.spine import colour_of

from .files import VOXELS, describe, write


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def own_scans(scans: Path, out: Path) -> tuple[Path, Path]:
    return scans, scans


def linked_folder(scans: Path, out: Path) -> tuple[Path, Path]:
    out.symlink_to(scans)
    return scans, out


def one_of_the_scans(scans: Path, out: Path) -> tuple[Path, Path]:
    return scans / "a.nii.gz", scans


def the_scan_itself(scans: Path, out: Path) -> tuple[Path, Path]:
    return scans / "a.nii.gz", scans / "a.nii.gz"


def scan_by_a_link(scans: Path, out: Path) -> tuple[Path, Path]:
    out.mkdir()
    (out / "a.nii.gz").symlink_to(scans / "a.nii.gz")
    return scans, out


def scan_by_a_hard_link(scans: Path, out: Path) -> tuple[Path, Path]:
    out.mkdir()
    (out / "a.nii.gz").hardlink_to(scans / "a.nii.gz")
    return scans, out


def linked_scan(scans: Path, out: Path) -> tuple[Path, Path]:
    out.mkdir()
    (scans / "a.nii.gz").rename(out / "a.nii.gz")
    (scans / "a.nii.gz").symlink_to(out / "a.nii.gz")
    return scans, out


def somebodys_map(scans: Path, out: Path) -> tuple[Path, Path]:
    out.mkdir()
    (out / "b.nii.gz").write_bytes(b"hours of work")
    return scans, out


def dangling_link(scans: Path, out: Path) -> tuple[Path, Path]:
    out.mkdir()
    (out / "b.nii.gz").symlink_to("not mounted")
    return scans, out


def data_set(scans: Path, out: Path) -> tuple[Path, Path]:
    out.mkdir()
    (out / "dataset.json").write_text('{"labels": {"background": 0}}')
    return scans, out


def other_record(scans: Path, out: Path) -> tuple[Path, Path]:
    out.mkdir()
    (out / "predict.json").write_text("{}")
    return scans, out


def damaged_record(scans: Path, out: Path) -> tuple[Path, Path]:
    out.mkdir()
    (out / "a.nii.gz").write_bytes(b"hours of work")
    content = {"format": "nnunetv2_cafr predict 1", "label_maps": {"a.nii.gz": {"sha256": "x"}}}
    (out / "predict.json").write_text(json.dumps(content))
    return scans, out


def a_file(scans: Path, out: Path) -> tuple[Path, Path]:
    out.write_text("years of work")
    return scans, out


def below_a_file(scans: Path, out: Path) -> tuple[Path, Path]:
    out.write_text("years of work")
    return scans, out / "label_maps"


def existing_file(scans: Path, out: Path) -> tuple[Path, Path]:
    out = out.with_name("labels.nii.gz")
    out.write_bytes(b"hours of work")
    return scans / "a.nii.gz", out


def one_file_for_two(scans: Path, out: Path) -> tuple[Path, Path]:
    return scans, out.with_name("labels.nii.gz")


def names_of_one_letter(scans: Path, out: Path) -> tuple[Path, Path]:
    shutil.copy(scans / "a.nii.gz", scans / "A.nii.gz")
    return scans, out


def in_a_dicom_series(scans: Path, out: Path) -> tuple[Path, Path]:
    series = scans.with_name("dicom") / "patient"
    series.mkdir(parents=True)
    image = sitk.GetImageFromArray(VOXELS[0])
    image.SetMetaData("0008|0016", "1.2.840.10008.5.1.4.1.1.4")
    sitk.WriteImage(image, series / "IM1.dcm")
    return series.parent, series


REFUSALS: dict[Callable[..., Any], str] = {
    own_scans: "which is read",
    linked_folder: "which is read",
    one_of_the_scans: "which is read",
    the_scan_itself: "which is read",
    scan_by_a_link: "which is read",
    scan_by_a_hard_link: "which is read",
    linked_scan: "which is read",
    somebodys_map: "holds b.nii.gz, which this network did not write",
    dangling_link: "holds b.nii.gz, which this network did not write",
    data_set: "holds dataset.json, which this network did not write",
    other_record: "is no record of nnUNetv2_cafr predict",
    damaged_record: "is no record of nnUNetv2_cafr predict",
    a_file: "is a file",
    below_a_file: "is no folder",
    existing_file: "is there, nothing is overwritten",
    one_file_for_two: "names one file, for 2 studies",
    names_of_one_letter: "would both be",
    in_a_dicom_series: "which is read",
}


@pytest.mark.parametrize("options", [[], ["--continue_prediction"]], ids=["", "continued"])
@pytest.mark.parametrize("arrange", REFUSALS, ids=lambda arrange: arrange.__name__)
def test_refused_before_anything_is_computed(predict, scans, tmp_path, monkeypatch, arrange, options) -> None:
    images, out = arrange(scans, tmp_path / "out")
    before = contents(tmp_path)
    monkeypatch.setattr(deployed, "load_network", lambda *_: pytest.fail("a network was loaded"))
    with pytest.raises(SystemExit, match=REFUSALS[arrange]):
        predict(images, out, *options)
    assert contents(tmp_path) == before


def test_own_label_maps_are_renewed_or_skipped(predict, model, scans, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert predict(scans, out) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "a.nii.gz", "b.nii.gz", "dataset.json", "labels.ctbl", "labels.txt", "plans.json", "predict.json",
        "preview.html"
    ]  # fmt: skip
    assert predict(scans, out) == 0
    (out / "b.nii.gz").unlink()
    (out / ".b.nii.gz.partial").mkdir()  # of a run that was killed
    stamp = (out / "a.nii.gz").stat().st_mtime_ns
    capsys.readouterr()
    assert predict(scans, out, "--continue_prediction") == 0
    assert "1 label map written" in capsys.readouterr().out
    assert (out / "a.nii.gz").stat().st_mtime_ns == stamp
    assert predict(scans, out, "--continue_prediction") == 0
    assert "All 2 label maps are in" in capsys.readouterr().out
    assert not list(out.glob(".*"))

    other = describe(tmp_path / "other.onnx")
    with pytest.raises(SystemExit, match=r"a.nii.gz, b.nii.gz, which this network did not write"):
        predict(scans, out, "--continue_prediction", model=other)
    write(out / "a.nii.gz", VOXELS)  # corrected by hand
    for options in ([], ["--continue_prediction"]):
        with pytest.raises(SystemExit, match=r"holds a.nii.gz, which this network did not write, or which was changed"):
            predict(scans, out, *options)


def test_other_settings_are_another_label_map(predict, scans, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert predict(scans / "a.nii.gz", out) == 0
    capsys.readouterr()
    assert predict(scans, out, "--continue_prediction", "--disable_tta") == 0
    assert "2 label maps written" in capsys.readouterr().out
    (out / "level_decoding.csv").write_text("case,score\n")
    with pytest.raises(SystemExit, match=r"holds level_decoding.csv, which this network did not write"):
        predict(scans, out, "--levels")
    assert (out / "level_decoding.csv").read_text() == "case,score\n"


def test_a_kill_between_record_and_label_map(predict, scans, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    assert predict(scans, out) == 0
    before = contents(out)
    record = LabelMaps._note

    def killed(self: LabelMaps, study: Any, files: Any) -> None:
        for file in files.values():  # another label map than before
            write(file, VOXELS)
        record(self, study, files)
        raise KeyboardInterrupt

    monkeypatch.setattr(LabelMaps, "_note", killed)
    with pytest.raises(KeyboardInterrupt):
        predict(scans, out)
    assert (out / "a.nii.gz").read_bytes() == before["a.nii.gz"]
    monkeypatch.setattr(LabelMaps, "_note", record)
    assert predict(scans, out) == 0
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("name", ["labels.nii.gz", "labels.mha", "labels.nii", "new/labels.nrrd", "labels.NII.GZ"])
def test_one_file_for_one_scan(predict, scans, tmp_path, name) -> None:
    (tmp_path / "out").mkdir()
    assert predict(scans / "a.nii.gz", tmp_path / "out" / name) == 0
    assert list(contents(tmp_path / "out")) == [name]
    found = sitk.ReadImage(tmp_path / "out" / name, imageIO="NiftiImageIO" if "nii" in name.lower() else "")
    assert found.GetSize() == (24, 30, 4)


def test_a_name_that_is_no_label_maps_is_no_folder_either(predict, scans, tmp_path) -> None:
    with pytest.raises(SystemExit, match=r"labels.png can be no label map of this network, which writes .nii.gz"):
        predict(scans / "a.nii.gz", tmp_path / "labels.png")
    assert not (tmp_path / "labels.png").exists()


class TestFullDisk:
    """What cannot be written leaves nothing, and is said in one line."""

    def test_before_the_first_study(self, predict, scans, tmp_path, monkeypatch) -> None:
        def full(path: Path, *_: object, **__: object) -> None:
            path.touch()
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(SystemExit, match=r"could not be written \(No space left on device\). Make room"):
            predict(scans, tmp_path / "new" / "out")
        assert not (tmp_path / "new").exists()

    def test_in_a_label_map(self, predict, scans, tmp_path, capsys) -> None:
        """Files may be no longer than 60 bytes; the documents are there already."""
        out = tmp_path / "out"
        assert predict(scans / "b.nii.gz", out) == 0
        before = contents(out)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
        try:
            status = predict(scans, out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert status == 1
        assert "not written completely" in capsys.readouterr().out
        assert contents(out) == before
        assert not list(out.glob(".*"))

    def test_nothing_more_is_predicted(self, predict, scans, tmp_path, monkeypatch, capsys) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(LabelMaps, "_write_whole", full)
        assert predict(scans, tmp_path / "out") == 1
        assert "The disk is full: 1 studies were not begun" in capsys.readouterr().out
        assert sorted(contents(tmp_path / "out")) == ["dataset.json", "plans.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_no_permission(predict, scans, tmp_path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(SystemExit, match="no permission"):
        predict(scans, tmp_path / "locked" / "out")


def test_answers_before_torch_is_loaded(model, scans, tmp_path) -> None:
    """As everything that is refused; seconds otherwise."""
    code = (
        "import sys; from nnunetv2_cafr.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as error: print(error, 'torch' in sys.modules)"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_text("hours of work")
    for network, said in ((tmp_path / "nope.onnx", "There is no "), (model, "holds a.nii.gz")):
        command = [sys.executable, "-c", code, "predict", "-m", network, "-i", scans, "-o", tmp_path / "out"]
        result = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", check=True)
        assert said in result.stdout and result.stdout.strip().endswith("False"), result.stdout


def test_names_and_colours_in_the_header_of_a_nifti(predict, model, tmp_path) -> None:
    """Found where TotalSegmentator's reader looks; voxels, geometry and codes are what nnU-Net's writer made."""
    labels = {"background": 0, '<b> & "c"': 1, "ignore": 2}
    content = json.loads(model.with_suffix(".json").read_text())
    maps = LabelMaps(
        tmp_path, Description({**content, "dataset_json": {**content["dataset_json"], "labels": labels}}), model, {}
    )
    reader = SimpleITKIO()
    _, properties = reader.read_images([str(write(tmp_path / "scan.nii.gz"))])
    segmentation = (VOXELS > 400).astype(np.uint8)
    reader.write_seg(segmentation, str(tmp_path / "theirs.nii.gz"), properties)
    maps._write_whole(tmp_path / "ours.nii.gz", segmentation, properties)

    ours, theirs = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("ours", "theirs"))
    (label,) = ElementTree.fromstring(ours.header.extensions[0].get_content()).iter("Label")
    assert (label.get("Key"), label.text) == ("1", '<b> & "c"')
    assert float(label.get("Red")) == pytest.approx(colour_of(label.text, 1)[0] / 255, abs=1e-3)
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    changed = {key for key in ours.header if ours.header[key].tobytes() != theirs.header[key].tobytes()}
    assert changed <= {"vox_offset", "scl_slope", "scl_inter"}
    np.testing.assert_array_equal(reader.read_seg(str(tmp_path / "ours.nii.gz"))[0][0], segmentation)


def test_documents_are_those_of_the_network(predict, model, scans, tmp_path) -> None:
    assert predict(scans, tmp_path / "out") == 0
    content = json.loads(model.with_suffix(".json").read_text())
    assert json.loads((tmp_path / "out" / "plans.json").read_text()) == content["plans"]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == content["dataset_json"]
