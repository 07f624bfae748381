"""The verb: folders of label maps in, folders of label maps out, and a table that says what was done."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

from nnunetv2_cafr.files import sha256
from nnunetv2_cafr.levels.decoding import FIELD_OF_VIEW, UNCERTAIN
from nnunetv2_cafr.levels.files import STATISTICS_FILE, TABLE_FILE

from ..verbs import run_verb
from .drawn import LABELS, SLICE, STEP, Drawn, draw

DIRECTION = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def write(path: Path, labels: np.ndarray) -> None:
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((STEP, STEP, SLICE))
    image.SetDirection(DIRECTION)
    sitk.WriteImage(image, path, True)


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def run(*arguments: object) -> int:
    return run_verb("relabel", *arguments)


def half_shifted(truth: Drawn) -> np.ndarray:
    labels = truth.labels.copy()
    upper = (truth.block >= 4) & (labels > 1)
    labels[upper] -= 1
    return labels


@pytest.fixture(scope="module")
def truth() -> Drawn:
    return draw(("L5", "L4", "L3", "L2", "L1", "T12", "T11", "T10"), shape=(6, 240, 100))


@pytest.fixture
def maps(tmp_path: Path, truth: Drawn) -> Path:
    """Three studies: right, with a swap, and shifted half-way up."""
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}))
    swapped = truth.labels.copy()
    swapped[truth.of("L3")], swapped[truth.of("L2")] = LABELS["L2"], LABELS["L3"]
    for name, labels in (("right", truth.labels), ("swapped", swapped), ("unsure", half_shifted(truth))):
        write(folder / f"{name}.nii.gz", labels)
    return folder


def test_folder_of_labels(maps, truth, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("-i", maps, "-o", out) == 0
    for name in ("right", "unsure"):
        assert (out / f"{name}.nii.gz").read_bytes() == (maps / f"{name}.nii.gz").read_bytes()
    np.testing.assert_array_equal(read(out / "swapped.nii.gz"), truth.labels)
    assert sitk.ReadImage(out / "swapped.nii.gz").GetDirection() == DIRECTION
    assert json.loads((out / "dataset.json").read_text())["labels"] == LABELS
    with (out / TABLE_FILE).open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert rows["swapped"]["relabelled"] == "L2 > L3; L3 > L2"
    assert int(rows["swapped"]["changed_voxels"]) == (truth.of("L3") | truth.of("L2")).sum()
    assert float(rows["right"]["confidence"]) > 0.99
    assert rows["right"]["flags"] == rows["swapped"]["flags"] == ""
    assert UNCERTAIN in rows["unsure"]["flags"]
    studies = json.loads((out / STATISTICS_FILE).read_text())["studies"]
    assert [level["decoded"] for level in studies["swapped"]["structures"]][:3] == ["L5", "L4/L5", "L4"]
    printed = capsys.readouterr().out
    assert "1 of 3 studies changed, 1 flagged" in printed
    assert re.search(r"^  levels uncertain \(.*\): unsure$", printed, re.MULTILINE)


def test_a_label_that_the_map_does_not_hold_yet(maps, truth, tmp_path, capsys):
    """L3, which was taken for T9 and is 304; labels in the map need one byte."""
    (maps / "dataset.json").write_text(json.dumps({"labels": {**LABELS, "L3": 304}, "file_ending": ".nii.gz"}))
    for path in maps.glob("*.nii.gz"):
        path.unlink()
    labels = truth.labels.copy()
    labels[truth.of("L3")] = LABELS["T9"]
    write(maps / "a.nii.gz", labels)
    sitk.WriteImage(sitk.ReadImage(maps / "a.nii.gz"), maps / "b.nrrd")
    assert run("-i", maps, "-o", tmp_path / "out") == 0
    assert (read(tmp_path / "out" / "a.nii.gz")[truth.of("L3")] == 304).all()
    assert f"Left out of {maps}: b.nrrd (label maps end in .nii.gz" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{}", '{"image_reader_writer": "NoSuchReader"}', '{"image_reader_writer": 1}'])
def test_plans_that_name_no_reader(maps, tmp_path, content):
    (maps / "plans.json").write_text(content)
    with pytest.raises(SystemExit, match=r"finds no reader of the label maps by .*plans\.json"):
        run("-i", maps, "-o", tmp_path / "out")


def test_probabilities_of_nnunet(maps, truth, tmp_path):
    probabilities = tmp_path / "probabilities"
    probabilities.mkdir()
    for path in maps.glob("*.nii.gz"):
        predicted = read(path)
        values = np.zeros((len(LABELS), *predicted.shape), np.float32)
        for label in range(len(LABELS)):
            values[label] = 0.55 * (predicted == label) + 0.45 * (truth.labels == label)
        np.savez_compressed(probabilities / path.name.replace(".nii.gz", ".npz"), probabilities=values)
    assert run("-i", maps, "-p", probabilities, "-o", tmp_path / "out") == 0
    np.testing.assert_array_equal(read(tmp_path / "out" / "unsure.nii.gz"), truth.labels)

    (probabilities / "right.npz").unlink()
    with pytest.raises(SystemExit, match=r"lacks 1 of 3 files: right\.npz"):
        run("-i", maps, "-p", probabilities, "-o", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_studies_that_fail_do_not_stop_the_others(maps, tmp_path, capsys):
    (maps / "broken.nii.gz").write_bytes((maps / "right.nii.gz").read_bytes()[:-500])
    write(maps / "foreign.nii.gz", np.full((3, 4, 5), 77, np.uint8))
    (maps / "unplaced.nii.gz").write_bytes((maps / "right.nii.gz").read_bytes())
    image = nibabel.load(maps / "unplaced.nii.gz")
    image.header["qform_code"] = image.header["sform_code"] = 0
    nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(maps / "unplaced.nii.gz")
    assert run("-i", maps, "-o", tmp_path / "out") == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == [
        "right.nii.gz", "swapped.nii.gz", "unsure.nii.gz"
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "3 of 6 studies failed" in printed
    assert "unplaced.nii.gz cannot be read: found a header without orientation" in printed
    assert "broken.nii.gz cannot be read" in printed
    assert "holds 77" in printed
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("reader", ["SimpleITKIOWithReorient", "NibabelIO"])
def test_two_dimensions_that_the_reader_of_the_data_set_does_not_know(maps, tmp_path, capsys, reader):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((9, 9), np.uint8)), maps / "flat.nii.gz")
    description = maps / "dataset.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"overwrite_image_reader_writer": reader}))
    assert run("-i", maps, "-o", tmp_path / "out") == 1
    printed = capsys.readouterr().out
    assert f"flat.nii.gz cannot be read by nnU-Net's {reader}" in printed
    assert "as a volume of one slice" in printed


def test_probabilities_of_another_map(maps, tmp_path, capsys):
    probabilities = tmp_path / "probabilities"
    probabilities.mkdir()
    for path in maps.glob("*.nii.gz"):
        np.savez(probabilities / path.name.replace(".nii.gz", ".npz"), probabilities=np.zeros((20, 2, 3, 4)))
    assert run("-i", maps, "-p", probabilities, "-o", tmp_path / "out") == 1
    assert "expected (20, 6, 240, 100)" in capsys.readouterr().out
    for path in maps.glob("*.nii.gz"):
        other = np.zeros((20, 6, 240, 100), np.float32)
        other[3] = 1
        np.savez_compressed(probabilities / path.name.replace(".nii.gz", ".npz"), probabilities=other)
    assert run("-i", maps, "-p", probabilities, "-o", tmp_path / "again") == 1
    assert "gives another label than the map" in capsys.readouterr().out
    for path in probabilities.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:1000])
    assert run("-i", maps, "-p", probabilities, "-o", tmp_path / "cut off") == 1
    printed = capsys.readouterr().out
    assert f"{path} cannot be read" in printed and "expected is an .npz" in printed


def test_nothing_is_overwritten(maps, tmp_path):
    before = {path.name: path.read_bytes() for path in maps.iterdir()}
    with pytest.raises(SystemExit, match="folder of the input"):
        run("-i", maps, "-o", maps / ".." / "maps")
    out = tmp_path / "out"
    out.mkdir()
    (out / "swapped.nii.gz").write_bytes(b"mine")
    with pytest.raises(SystemExit, match=r"swapped\.nii\.gz already"):
        run("-i", maps, "-o", out)
    assert (out / "swapped.nii.gz").read_bytes() == b"mine"
    assert {path.name: path.read_bytes() for path in maps.iterdir()} == before


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "Anterior": 1, "Posterior": 2}, "name 0 levels of a spine"),
        ({"background": 0, "vertebrae": [1, 2], "L5": 1, "L4": 2}, "regions"),
    ],
)
def test_labels_without_order_are_refused(maps, tmp_path, labels, words):
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    with pytest.raises(SystemExit, match=words):
        run("-i", maps, "-o", tmp_path / "out", "--labels", file)
    assert not (tmp_path / "out").exists()


def test_names_that_would_keep_their_numbers_are_refused(maps, tmp_path):
    labels = {("IVD_L5" if name == "L5/S" else "D12" if name == "T12" else name): v for name, v in LABELS.items()}
    (maps / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    with pytest.raises(SystemExit, match=r"where vertebrae get others: D12, IVD_L5\."):
        run("-i", maps, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_probabilities_that_is_not_there(maps, tmp_path):
    with pytest.raises(SystemExit, match=r"There is no folder .*nowhere of probabilities"):
        run("-i", maps, "-p", tmp_path / "nowhere", "-o", tmp_path / "out")


def test_maps_that_were_postprocessed(maps, truth, tmp_path, capsys):
    """nnUNetv2_apply_postprocessing leaves no document; what nnUNetv2_ensemble left lies beside the probabilities."""
    ensemble = tmp_path / "ensemble"
    ensemble.mkdir()
    (maps / "dataset.json").rename(ensemble / "dataset.json")
    for path in maps.glob("*.nii.gz"):
        certain = np.stack([read(path) == label for label in range(len(LABELS))])
        np.savez_compressed(ensemble / path.name.replace(".nii.gz", ".npz"), probabilities=certain)
    assert run("-i", maps, "-p", ensemble, "-o", tmp_path / "out") == 0
    np.testing.assert_array_equal(read(tmp_path / "out" / "swapped.nii.gz"), truth.labels)
    assert (tmp_path / "out" / "dataset.json").is_file()
    assert re.search(
        r"not compared .*: there is no .*maps.plans\.json, which nnUNetv2_predict writes", capsys.readouterr().out
    )
    (ensemble / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}))
    assert run("-i", maps, "-p", ensemble, "-o", tmp_path / "planned") == 0
    assert (tmp_path / "planned" / "plans.json").is_file()


def test_what_is_missing_is_named(maps, tmp_path):
    with pytest.raises(SystemExit, match=r"There is no .*nowhere"):
        run("-i", tmp_path / "nowhere", "-o", tmp_path / "out")
    (maps / "dataset.json").unlink()
    with pytest.raises(SystemExit, match=r"dataset.json in it or by --labels"):
        run("-i", maps, "-o", tmp_path / "out")


def test_as_a_command(maps, tmp_path):
    program = Path(sys.executable).parent / "nnUNetv2_cafr"
    subprocess.run([program, "relabel", "-i", maps, "-o", tmp_path / "out"], check=True, capture_output=True)
    assert (tmp_path / "out" / TABLE_FILE).is_file()


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient"])
@pytest.mark.parametrize("order", ["PSR", "RAS", "LPS"])
def test_files_in_other_voxel_orders(maps, truth, tmp_path, order, reader):
    """Decoded as in any other order, and written in their own; probabilities lie as the reader that predicted turns."""
    (maps / "plans.json").write_text(json.dumps({"image_reader_writer": reader}))
    for path in maps.glob("*.nii.gz"):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(path), order), path, True)
    write(tmp_path / "truth.nii.gz", truth.labels)
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(tmp_path / "truth.nii.gz"), order), tmp_path / "truth.nii.gz")
    read_seg = recursive_find_reader_writer_by_name(reader)().read_seg
    right = read_seg(str(tmp_path / "truth.nii.gz"))[0][0]
    for path in maps.glob("*.nii.gz"):
        predicted = read_seg(str(path))[0][0]
        values = np.stack([0.55 * (predicted == label) + 0.45 * (right == label) for label in range(len(LABELS))])
        np.savez_compressed(maps / path.name.replace(".nii.gz", ".npz"), probabilities=values.astype(np.float16))
    assert run("-i", maps, "-o", tmp_path / "alone") == 0
    assert run("-i", maps, "-p", maps, "-o", tmp_path / "out") == 0
    for folder, names in (("alone", ("right", "swapped")), ("out", ("right", "swapped", "unsure"))):
        for name in names:
            path = tmp_path / folder / f"{name}.nii.gz"
            np.testing.assert_array_equal(read(path), read(tmp_path / "truth.nii.gz"))
            found, before = (sitk.ReadImage(one) for one in (path, maps / path.name))
            assert found.GetDirection() == pytest.approx(before.GetDirection())
            assert found.GetOrigin() == pytest.approx(before.GetOrigin())


def test_a_scan_that_shows_less_than_those_of_the_training(maps, truth, tmp_path, monkeypatch, capsys):
    """Where nnUNetv2_predict left its plans beside the maps, and the training cases are there: named, and decoded."""
    trained = tmp_path / "raw" / "Dataset901_Tiny" / "imagesTr"
    trained.mkdir(parents=True)
    write(trained / "a_0000.nii.gz", np.resize(truth.labels, (6, 240 * 2, 100)))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    plans = {"image_reader_writer": "SimpleITKIO", "dataset_name": "Dataset901_Tiny", "configurations": {}}
    (maps / "plans.json").write_text(json.dumps(plans))
    assert run("-i", maps, "-o", tmp_path / "out") == 0
    assert re.search(
        r"field of view \(360 mm from bottom to top, and the network was trained on 720 mm.*\): all 3 studies$",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    np.testing.assert_array_equal(read(tmp_path / "out" / "swapped.nii.gz"), truth.labels)
    write(trained / "b_0000.nii.gz", truth.labels)
    assert run("-i", maps, "-o", tmp_path / "all") == 0
    assert "field of view" not in capsys.readouterr().out
    preprocessed = tmp_path / "preprocessed" / "Dataset901_Tiny" / "broken"
    preprocessed.mkdir(parents=True)
    (preprocessed / "notes.txt").touch()
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    (maps / "plans.json").write_text(json.dumps({**plans, "configurations": {"2d": {"data_identifier": "broken"}}}))
    assert run("-i", maps, "-o", tmp_path / "broken") == 0
    assert "Heights are not compared" in capsys.readouterr().out


def test_what_predict_said_of_an_image_is_said_again(maps, tmp_path, capsys):
    """Of a map that is as it was written; where nothing is known of the training, that is said."""
    assert run("-i", maps, "-o", tmp_path / "one") == 0
    assert "Heights are not compared" in capsys.readouterr().out
    entries = {
        name: {"sha256": [digest], "doubts": {FIELD_OF_VIEW: "900 mm", "dark": "no matter"}}
        for name, digest in (("right.nii.gz", sha256(maps / "right.nii.gz")), ("swapped.nii.gz", "0"))
    }
    record = {"format": "nnunetv2_cafr predict 1", "label_maps": entries}
    (maps / "predict.json").write_text(json.dumps(record))
    assert run("-i", maps, "-o", tmp_path / "two") == 0
    printed = capsys.readouterr().out
    assert "2 flagged" in printed and "field of view (900 mm): right\n" in printed and "not compared" not in printed


def test_pictures_and_empty_maps(tmp_path, capsys):
    """Two-dimensional files; one with nothing in it is copied and named."""
    truth = draw(("L5", "L4", "L3", "L2", "L1"), shape=(1, 240, 100))
    swapped = truth.labels[0].copy()
    swapped[truth.of("L3")[0]], swapped[truth.of("L2")[0]] = LABELS["L2"], LABELS["L3"]
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}))
    for name, labels in (("swapped", swapped), ("empty", np.zeros_like(swapped))):
        sitk.WriteImage(sitk.GetImageFromArray(labels), folder / f"{name}.nii.gz")
    assert run("-i", folder, "-o", tmp_path / "out") == 0
    np.testing.assert_array_equal(read(tmp_path / "out" / "swapped.nii.gz"), truth.labels[0])
    assert (tmp_path / "out" / "empty.nii.gz").read_bytes() == (folder / "empty.nii.gz").read_bytes()
    assert "levels uncertain (neither vertebrae nor discs): empty\n" in capsys.readouterr().out
