"""What people hand to `predict`: each file is predicted on purpose, or named and refused while the others go on.

Every case builds its own small files. No network runs: what a study is refused for is seen before.
"""

import gzip
import json
import os
import shutil
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tifffile
from pydicom.uid import MRImageStorage
from skimage import io

from dataset_conversion.reading import files_of, read_volume
from nnunetv2_cafr.cli import main
from nnunetv2_cafr.deployment.studies import Study, fingerprint

from .files import SAGITTAL, VOXELS, describe, image_of, write

GOOD = "good.nii.gz"


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_voxel(value: float) -> np.ndarray:
    voxels = VOXELS.astype(np.float32)
    voxels[2, 20, 10] = value
    return voxels


def nifti(path: Path, voxels: np.ndarray, zooms: tuple[float, ...], unit: str) -> None:
    affine = np.array([[0, 0, zooms[2], 0], [-zooms[0], 0, 0, 0], [0, -zooms[1], 0, 0], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units(unit)
    image.to_filename(path)


def two_files(path: Path, cut: bool = False) -> None:
    write(path)
    if cut:
        rewrite(path.with_suffix(".raw"), half)


def placeless(folder: Path) -> None:
    """Two slices of a series that do not say where they lie."""
    folder.mkdir()
    for number, pixels in enumerate(VOXELS[:2]):
        file = folder / f"{number}.dcm"
        sitk.WriteImage(sitk.GetImageFromArray(pixels), file)
        one = pydicom.dcmread(file)
        one.SOPClassUID, one.StudyInstanceUID, one.SeriesInstanceUID = MRImageStorage, "1.1", "1.2"
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            if name in one:  # ITK writes these once a DICOM file was read in the same process, not before
                delattr(one, name)
        one.save_as(file)


def test_a_header_whose_voxels_lie_in_a_file_of_any_name(tmp_path) -> None:
    """Other voxels are another volume, for `--continue_prediction` as for an interrupted conversion."""
    header = tmp_path / "x.mhd"
    two_files(header)
    voxels = header.with_suffix(".raw").rename(tmp_path / "voxels.img")
    rewrite(header, lambda content: content.replace(b"x.raw", b"voxels.img"))
    seen = []
    for _ in range(2):
        volume, problems = read_volume(header)
        assert volume is not None and not problems
        seen.append((fingerprint(Study("x", {0: header})), volume.sha256))
        rewrite(voxels, lambda content: content[::-1])
    assert all(before != after for before, after in zip(*seen, strict=True))
    assert files_of(header) == [header, voxels]


# File, what is done to make it, what is said of it, what is expected.
REFUSED: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "cut in half": ("x.nii.gz", lambda p: rewrite(write(p), half), "a truncated gzip file", "intact gzip"),
    "cut in half, then compressed": (
        "x.nii.gz", lambda p: rewrite(write(p), lambda b: gzip.compress(half(gzip.decompress(b)))),
        "truncated voxel data", "bytes for size"),
    "cut in half, not compressed": ("x.nii", lambda p: rewrite(write(p), half), "truncated voxel data", "bytes for"),
    "compressed, and named as if it were not": (
        "x.nii", lambda p: p.write_bytes(gzip.compress(write(p).read_bytes())), "that gzip has compressed", ".nii.gz"),
    "values of 1e16": ("x.nii.gz", lambda p: write(p, VOXELS * np.float32(1e16)), "to calculate with", "finite values"),
    "values of 1e30": ("x.nii.gz", lambda p: write(p, VOXELS * np.float32(1e30)), "to calculate with", "finite values"),
    "cut MetaImage": ("x.mha", lambda p: rewrite(write(p), half), "truncated voxel data", "bytes for size"),
    "cut NRRD": ("x.nrrd", lambda p: rewrite(write(p), half), "truncated voxel data", "bytes for size"),
    "cut file of a header": ("x.mhd", lambda p: two_files(p, cut=True), "truncated voxel data", "bytes for size"),
    "header without its file": ("x.mhd", lambda p: [two_files(p), p.with_suffix(".raw").unlink()], "cannot be read",
                                "a readable volume"),
    "NaN": ("x.nii.gz", lambda p: write(p, with_voxel(np.nan)), "NaN or infinity in 1 of", "finite values"),
    "infinity": ("x.mha", lambda p: write(p, with_voxel(-np.inf)), "NaN or infinity in 1 of", "finite values"),
    "too large for float32": ("x.nii.gz", lambda p: write(p, with_voxel(0).astype(np.float64) * 1e300), "too large for",
                              "finite values"),
    "3x4 pixels": ("x.nii.gz", lambda p: write(p, VOXELS[:, :4, :3]), "slices of 4 x 3 pixels", "at least 8"),
    "two dimensions": ("x.nii.gz", lambda p: write(p, VOXELS[0]), "2 dimensions, size (24, 30)", "one 3-D volume"),
    "two volumes": ("x.nii.gz", lambda p: write(p, np.stack([VOXELS, VOXELS]), isVector=False), "4 dimensions",
                    "one 3-D volume"),
    "RGB": ("x.nii.gz", lambda p: write(p, np.zeros((4, 30, 24, 3), np.uint8), isVector=True), "3 values per voxel",
            "one grey value"),
    "JPEG": ("x.jpg", lambda p: io.imsave(p, np.zeros((30, 24), np.uint8), check_contrast=False), "format '.jpg'",
             ".nii.gz, .mha"),
    "PNG": ("x.png", lambda p: io.imsave(p, np.zeros((30, 24), np.uint8), check_contrast=False), "format '.png'",
            ".nii.gz, .mha"),
    "PNG by another name": ("x.mha", lambda p: [io.imsave(q := p.with_suffix(".png"), np.zeros((9, 9), np.uint8),
                                                          check_contrast=False), q.rename(p)],
                            "a header with NDims None", "a MetaImage header of one volume"),
    "junk": ("x.nrrd", lambda p: p.write_bytes(bytes(range(256)) * 9), "cannot read", "a readable volume"),
    "empty": ("x.nii.gz", lambda p: p.touch(), "an empty file (0 bytes)", "a volume"),
    "text": ("x.nii.gz", lambda p: p.write_text("see the mail"), "no intact gzip file", "intact gzip"),
    "compressed text": ("x.nii.gz", lambda p: p.write_bytes(gzip.compress(b"see the mail")), "no NIfTI header",
                        "a NIfTI-1 file"),
    "metres": ("x.nii.gz", lambda p: write(p, spacing=(7e-4, 8e-4, 4.4e-3)), "pixels of 0.0008 x 0.0007 mm",
               "near the 1 x 1.1 mm"),
    "metres that are millimetres": ("x.nii.gz", lambda p: nifti(p, VOXELS, (0.7, 0.8, 4.4), "meter"),
                                    "pixels of 800 x 700", "near the 1 x 1.1 mm"),
    "no orientation": ("x.nii.gz", lambda p: rewrite(write(p), lambda b: gzip.compress(
        gzip.decompress(b)[:252] + bytes(4) + gzip.decompress(b)[256:])), "without orientation", "voxel axes"),
    "one DICOM file": ("x.dcm", lambda p: sitk.WriteImage(sitk.GetImageFromArray(VOXELS[0]), p), "format '.dcm'",
                       "folder with a DICOM series"),
    "slices without a place": ("x", placeless, "a slice without its place in the patient", "ImagePositionPatient"),
}  # fmt: skip
PREDICTED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "as it should be": ("x.nii.gz", write, ""),
    "capitals": ("x.NII.GZ", lambda p: write(p.with_name("y.nii.gz")).rename(p), ""),
    "some capitals": ("x.Nii.gz", lambda p: write(p.with_name("y.nii.gz")).rename(p), ""),
    "capitals of MetaImage": ("x.MHA", lambda p: write(p.with_name("y.mha")).rename(p), ""),
    "not compressed": ("x.nii", write, ""),
    "header and voxels apart": ("x.mhd", two_files, ""),
    "one volume in four dimensions": ("x.nii.gz", lambda p: write(p, VOXELS[None], isVector=False), ""),
    "one slice": ("x.nii.gz", lambda p: write(p, VOXELS[:1]), ""),
    "metres that say so": ("x.nii.gz", lambda p: nifti(p, VOXELS, (7e-4, 8e-4, 4.4e-3), "meter"), ""),
    "constant": ("x.nii.gz", lambda p: write(p, np.full_like(VOXELS, 7)), "the value 7 in every voxel of T1"),
    "all zero": ("x.nii.gz", lambda p: write(p, np.zeros_like(VOXELS)), "the value 0 in every voxel of T1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    name, make, found, expected = REFUSED[kind]
    images = tmp_path / "images"
    images.mkdir()
    make(images / name)
    write(images / GOOD)
    assert predict([images / name, images / GOOD], tmp_path / "out") == 1
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.lstrip().startswith("found:"))
    assert Path(name).stem in lines[start - 1]
    assert found in lines[start]
    assert expected in lines[start + 1]
    assert lines[start + 2].lstrip().startswith("to do:")
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == [GOOD]


@pytest.mark.parametrize("kind", PREDICTED)
def test_predicted(predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    name, make, note = PREDICTED[kind]
    images = tmp_path / "images"
    images.mkdir()
    make(images / name)
    assert predict(images, tmp_path / "out") == 0
    output = capsys.readouterr().out
    assert "Left out" not in output
    assert (f"Note on x: {note}" if note else "1 label map written") in output
    assert ("Note" in output) == bool(note)
    labels = sitk.ReadImage(tmp_path / "out" / "x.nii.gz")
    depth = 1 if kind == "one slice" else 4
    assert labels.GetSize() == (24, 30, depth)
    assert labels.GetSpacing() == pytest.approx((0.7, 0.8, 4.4))
    assert labels.GetDirection() == pytest.approx(SAGITTAL, abs=1e-6)


def test_a_series_of_another_plane_is_predicted_with_a_note(
    predict: Callable[..., int], tmp_path: Path, capsys
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    write(images / "x.nii.gz", np.resize(VOXELS, (30, 9, 24)), spacing=(0.7, 4.4, 0.8))
    assert predict(images, tmp_path / "out") == 0
    assert "Note on x: its slices lie in another plane" in capsys.readouterr().out


def test_scans_without_orientation_by_a_network_of_such_scans(predict, tmp_path: Path, capsys) -> None:
    network = describe(tmp_path / "unplaced.onnx")
    orders = {"training_voxel_orders": {"none": 5}}
    network.with_suffix(".json").write_text(
        json.dumps({**json.loads(network.with_suffix(".json").read_text()), **orders})
    )
    images = tmp_path / "images"
    images.mkdir()
    rewrite(
        write(images / "x.nii.gz"),
        lambda b: gzip.compress(gzip.decompress(b)[:252] + bytes(4) + gzip.decompress(b)[256:]),
    )
    rewrite(write(images / "cut.nii.gz"), half)
    assert predict(images, tmp_path / "out", model=network) == 1
    output = capsys.readouterr().out
    assert "Note on x: no orientation in its header" in output
    assert "1 of 2 studies failed" in output and "a truncated gzip file" in output
    assert sitk.ReadImage(tmp_path / "out" / "x.nii.gz").GetSize() == (24, 30, 4)


def test_a_unit_that_nibabel_does_not_read_is_refused(predict, tmp_path: Path, capsys) -> None:
    """The numbers look like mm and the header says metres; found by the fuzzer."""
    network = describe(tmp_path / "nibabel.onnx", image_reader_writer="NibabelIO")
    images = tmp_path / "images"
    images.mkdir()
    nifti(images / "x.nii.gz", VOXELS, (0.7, 0.8, 4.4), "meter")
    nifti(images / "y.nii.gz", VOXELS, (0.7, 0.8, 4.4), "mm")
    assert predict(images, tmp_path / "out", model=network) == 1
    assert "700 x 800 x 4400 mm by the header's unit, which nnU-Net's reader takes for 0.7" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["y.nii.gz"]


def test_a_folder_that_cannot_be_listed_is_named(predict: Callable[..., int], tmp_path: Path, unlistable) -> None:
    locked = tmp_path / "scans" / "series" / "locked"
    locked.mkdir(parents=True)
    unlistable(locked)
    with pytest.raises(SystemExit, match=r"locked cannot be read \(Permission denied\), and scans may be in it"):
        predict(tmp_path / "scans", tmp_path / "out")


def test_what_is_left_out_is_named(predict: Callable[..., int], tmp_path: Path, capsys) -> None:
    images = tmp_path / "images"
    (images / "papers").mkdir(parents=True)
    write(images / GOOD)
    two_files(images / "pair.mhd")
    (images / "pair.raw").rename(images / "voxels.bin")
    rewrite(images / "pair.mhd", lambda header: header.replace(b"pair.raw", b"voxels.bin"))
    for name in ("a.jpg", "notes.txt", ".DS_Store", "papers/b.pdf"):
        (images / name).write_bytes(b"something else")
    assert predict(images, images / "out") == 0
    assert predict(images, images / "out") == 0, "the label maps' folder is not looked into"
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Left out")]
    assert said == 2 * [f"Left out of {images}: a.jpg, notes.txt, papers/ (read are {READ})"]


READ = ".nii, .nii.gz, .mha, .nrrd, .mhd, or folders with DICOM series"


def test_channels_in_other_places(predict: Callable[..., int], tmp_path: Path, capsys) -> None:
    two = describe(tmp_path / "two.onnx", channels=("T1", "T2"))
    images = tmp_path / "images"
    images.mkdir()
    write(images / "a_0000.nii.gz")
    moved = image_of(VOXELS)
    moved.SetOrigin((0, 9, 0))
    sitk.WriteImage(moved, images / "a_0001.nii.gz")
    assert predict(images, tmp_path / "out", model=two) == 1
    assert "origin (0, 9, 0)" in capsys.readouterr().out


def test_networks_of_other_images(predict: Callable[..., int], tmp_path: Path, capsys) -> None:
    """Pictures, whose three channels lie in one file; and flat medical images."""
    pictures = describe(tmp_path / "p.onnx", ("R", "G", "B"), ".png", image_reader_writer="NaturalImage2DIO")
    images = tmp_path / "pictures"
    images.mkdir()
    colours = np.random.default_rng(0).integers(0, 255, (30, 24, 3)).astype(np.uint8)
    io.imsave(images / "a_0000.png", colours)
    io.imsave(images / "grey_0000.png", colours[..., 0])
    (images / "cut_0000.png").write_bytes(half((images / "a_0000.png").read_bytes()))
    assert predict(images, tmp_path / "out", model=pictures) == 1
    output = capsys.readouterr().out
    assert "1 channels" in output and "cannot read" in output
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["a.png"]

    flat = describe(tmp_path / "flat.onnx", original_median_shape_after_transp=[1, 30, 24])
    write(tmp_path / "slice.nii.gz", VOXELS[0])
    assert predict(tmp_path / "slice.nii.gz", tmp_path / "flat", model=flat) == 0
    assert sitk.ReadImage(tmp_path / "flat" / "slice.nii.gz").GetSize() == (24, 30)


def test_spacing_file_of_others_beside_a_new_tiff_is_kept(predict: Callable[..., int], tmp_path: Path) -> None:
    model = describe(tmp_path / "tiff.onnx", image_reader_writer="Tiff3DIO")
    rewrite(model.with_suffix(".json"), lambda b: b.replace(b'"file_ending": ".nii.gz"', b'"file_ending": ".tiff"'))
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "x_0000.tiff", VOXELS)
    (tmp_path / "out.json").write_text("theirs")
    with pytest.raises(SystemExit, match=r"out\.json is there, nothing is overwritten"):
        predict(tmp_path / "images", tmp_path / "out.tiff", model=model)
    assert (tmp_path / "out.json").read_text() == "theirs"


@pytest.mark.parametrize("name", ["x_0000.tiff", "x.tiff", "x_0000.TIFF"])
def test_spacing_beside_a_tiff_is_found_by_any_name(predict: Callable[..., int], tmp_path: Path, name: str) -> None:
    model = describe(tmp_path / "tiff.onnx", image_reader_writer="Tiff3DIO")
    rewrite(model.with_suffix(".json"), lambda b: b.replace(b'"file_ending": ".nii.gz"', b'"file_ending": ".tiff"'))
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / name, VOXELS)
    (tmp_path / "images" / "x.json").write_text('{"spacing": [4.4, 0.8, 0.7]}')
    assert predict(tmp_path / "images", tmp_path / "out", model=model) == 0
    assert json.loads((tmp_path / "out" / "x.json").read_text()) == {"spacing": [4.4, 0.8, 0.7]}


def test_names_in_another_encoding(predict: Callable[..., int], model: Path, tmp_path: Path, monkeypatch) -> None:
    """From a disc of before UTF-8: SimpleITK would end the process, and print would fail over a mere note beside."""
    scans = tmp_path / "scans"
    scans.mkdir()
    write(scans / "a.nii.gz")
    try:
        for name in (b"M\xfcller.nii.gz", b"f\xfcr alle.txt"):
            shutil.copy(scans / "a.nii.gz", scans / os.fsdecode(name))
    except OSError:
        pytest.skip("this file system knows no such names")
    said = TextIOWrapper(BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", said)
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "-m", str(model), "-i", str(scans), "-o", str(tmp_path / os.fsdecode(b"M\xfcller"))])
    assert predict(scans, tmp_path / "out") == 1
    said.flush()
    text = said.buffer.getvalue().decode()
    assert "Left out of" in text and "f\\udcfcr alle.txt" in text
    assert "a name in another encoding than UTF-8" in text and (tmp_path / "out" / "a.nii.gz").is_file()
