"""A conversion that is killed goes on; two at a time, other settings and changed sources do no harm."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion import staging
from dataset_conversion.cases import Case
from dataset_conversion.folder import main
from nnunetv2_cafr.errors import UserError

REPOSITORY = Path(__file__).parents[2]
LAYOUT = "{name: Mine, channel: T2, images: 'i/{id}.nii', masks: 'm/{id}.nii', labels: {vertebrae: {1: L5, 2: L4}}}"
TARGET = "Dataset513_Mine"
NUM_CASES = 60  # so many that writing takes a while


@pytest.fixture
def source(tmp_path: Path, make_pair: Callable[..., tuple[sitk.Image, sitk.Image]]) -> Path:
    root = tmp_path / "source"
    for folder, volume in zip(("i", "m"), make_pair(), strict=True):
        (root / folder).mkdir(parents=True)
        sitk.WriteImage(volume, str(root / folder / "0.nii"))
        for number in range(1, NUM_CASES):
            os.link(root / folder / "0.nii", root / folder / f"{number}.nii")
    (tmp_path / "layout.yaml").write_text(LAYOUT)
    return root


def arguments(source: Path, *options: str) -> list[str]:
    layout, output = source.parent / "layout.yaml", source.parent / "raw"
    return ["-i", str(source), "--layout", str(layout), "-d", "513", "-o", str(output), "-np", "1", *options]


def start(source: Path, finished: int, *options: str) -> subprocess.Popen[bytes]:
    """Start a conversion, and come back when so many cases are finished."""
    command = "import sys; from dataset_conversion.folder import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments(source, *options)],
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 30
    pattern = f".{TARGET}.partial-*/.cases/[0-9]*.json"
    while len(list((source.parent / "raw").glob(pattern))) < finished:
        assert process.poll() is None, "ended too early to be killed"
        assert time.monotonic() < end
        time.sleep(0.002)
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill it alone; its worker processes end by themselves."""
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    end = time.monotonic() + 30
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.01)


def remains(source: Path) -> list[Path]:
    return sorted((source.parent / "raw").glob(".*"))


def check_complete(source: Path) -> None:
    target = source.parent / "raw" / TARGET
    assert remains(source) == []
    assert sorted(path.name for path in target.iterdir()) == ["dataset.json", "imagesTr", "labelsTr", "provenance.json"]
    cases = json.loads((target / "provenance.json").read_text())["cases"]
    for folder, name in (("imagesTr", "{}_0000.nii.gz"), ("labelsTr", "{}.nii.gz")):
        expected = sorted(name.format(number) for number in range(NUM_CASES))
        assert sorted(path.name for path in (target / folder).iterdir()) == expected
    assert all(len(case["sha256"]["mask"]) == 64 for case in cases.values())
    assert len(cases) == NUM_CASES


@pytest.mark.parametrize("num_processes", ["1", "2"])
def test_killed_conversion_goes_on(source: Path, capsys: pytest.CaptureFixture[str], num_processes: str) -> None:
    kill(start(source, 20, "-np", num_processes))
    (remainder,) = remains(source)
    before = {path.name: path.stat().st_mtime_ns for path in (remainder / "labelsTr").glob("[0-9]*")}
    records = {path.stem for path in (remainder / ".cases").glob("[0-9]*.json")}
    assert 20 <= len(records) < NUM_CASES
    (remainder / "labelsTr" / ".1-99.nii.gz").write_bytes(b"begun by a worker that was killed")
    assert main(arguments(source)) == 0
    assert f"goes on with an interrupted conversion: {len(records)} of {NUM_CASES} cases" in capsys.readouterr().out
    check_complete(source)
    for name in records:
        path = source.parent / "raw" / TARGET / "labelsTr" / f"{name}.nii.gz"
        assert path.stat().st_mtime_ns == before[path.name]


def test_a_case_that_was_taken_out_meanwhile_is_taken_out(source: Path) -> None:
    kill(start(source, 20))
    (remainder,) = remains(source)
    gone = next((remainder / ".cases").glob("[0-9]*.json")).stem
    for folder in ("i", "m"):
        (source / folder / f"{gone}.nii").unlink()
    assert main(arguments(source)) == 0
    written = source.parent / "raw" / TARGET
    left = {str(number) for number in range(NUM_CASES)} - {gone}
    assert json.loads((written / "provenance.json").read_text())["cases"].keys() == left
    assert {path.name for path in (written / "imagesTr").iterdir()} == {f"{case}_0000.nii.gz" for case in left}
    assert {path.name for path in (written / "labelsTr").iterdir()} == {f"{case}.nii.gz" for case in left}
    assert not (written / "imagesTs").exists()


def test_changed_source_and_damaged_result_are_done_again(
    source: Path, capsys: pytest.CaptureFixture[str], read: Callable[[Path], np.ndarray]
) -> None:
    kill(start(source, 20))
    (remainder,) = remains(source)
    finished = sorted((remainder / ".cases").glob("[0-9]*.json"))
    changed, damaged = finished[0].stem, finished[1].stem
    image = sitk.ReadImage(str(source / "i" / "0.nii"))
    (source / "i" / f"{changed}.nii").unlink()
    sitk.WriteImage(image + 1, str(source / "i" / f"{changed}.nii"))
    (remainder / "labelsTr" / f"{damaged}.nii.gz").write_bytes(b"")
    assert main(arguments(source)) == 0
    assert f"{len(finished) - 2} of {NUM_CASES} cases are finished" in capsys.readouterr().out
    check_complete(source)
    written = source.parent / "raw" / TARGET
    np.testing.assert_array_equal(
        read(written / "imagesTr" / f"{changed}_0000.nii.gz"), sitk.GetArrayFromImage(image) + 1
    )
    assert read(written / "labelsTr" / f"{damaged}.nii.gz").any()


def test_remains_of_other_settings_are_named_and_kept(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kill(start(source, 5))
    (remainder,) = remains(source)
    assert main(arguments(source, "--labels", "kinds")) == 0
    output = capsys.readouterr().out
    assert f"{remainder} is left over from a conversion with other settings" in output
    assert "goes on" not in output
    assert remains(source) == [remainder]
    shutil.rmtree(remainder)
    check_complete(source)


def test_two_conversions_at_a_time(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = start(source, 5)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(UserError):
            main(arguments(source))
    finally:
        process.send_signal(signal.SIGCONT)
    assert "a conversion to the same data set that is running now" in capsys.readouterr().err
    assert process.wait(timeout=60) == 0
    check_complete(source)


def test_problems_of_finished_cases_are_not_forgotten(source: Path, problems_of: Callable[[], dict[str, str]]) -> None:
    """What spoils a finished case after the kill is found when the conversion goes on; then nothing stays."""
    kill(start(source, 20))
    (source / "i" / "0.nii").write_bytes(b"")  # a hard link: all images are empty now
    with pytest.raises(UserError):
        main(arguments(source))
    assert len(problems_of()) == NUM_CASES
    assert list((source.parent / "raw").iterdir()) == []


def test_a_change_in_a_linked_folder_is_one_of_the_case(tmp_path: Path) -> None:
    """Of a folder of DICOM files, one of them in a folder that is only linked there."""
    case = Case("a", tmp_path / "a", None, patient="a")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.dcm").write_bytes(b"before")
    case.image.mkdir()
    (case.image / "linked").symlink_to(tmp_path / "elsewhere")
    with staging.staged_directory(tmp_path / TARGET, {}) as (folder, _):
        staging.image_path(folder, case).parent.mkdir()
        staging.image_path(folder, case).touch()
        staging.save_record(folder, case, {"finished": True})
        assert staging.load_record(folder, case) == {"finished": True}
        (tmp_path / "elsewhere" / "1.dcm").write_bytes(b"changed")
        assert staging.load_record(folder, case) is None


def test_target_that_comes_into_being_is_left_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / TARGET
    with pytest.raises(FileExistsError), staging.staged_directory(target, {}):
        target.mkdir()
        (target / "mine").touch()
    assert [path.name for path in tmp_path.rglob("*")] == [TARGET, "mine"]


def test_nobodys_remains_do_no_harm(tmp_path: Path) -> None:
    """Remains without settings, or with a record that was cut off."""
    (tmp_path / f".{TARGET}.partial-1").mkdir()
    assert staging.check_target(tmp_path / TARGET, []) == []
    with staging.staged_directory(tmp_path / TARGET, {}) as (folder, notes):
        assert "left over" in notes[0]
        case = Case("a", tmp_path / "image", None, patient="a")
        (folder / ".cases" / "a.json").write_text('{"stamps"')
        assert staging.load_record(folder, case) is None
