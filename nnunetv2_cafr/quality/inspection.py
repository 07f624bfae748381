"""Reads one case completely, measures it, checks it and draws it; holds one case in memory."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases, verify_labels
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from dataset_conversion.geometry import orient
from dataset_conversion.reading import ENDINGS, NO_ORIENTATION, read_volume
from nnunetv2_cafr.errors import last_line
from nnunetv2_cafr.quality import checks
from nnunetv2_cafr.quality.dataset import CaseFiles, RawDataset
from nnunetv2_cafr.quality.findings import Finding, Severity
from nnunetv2_cafr.quality.measures import (
    Fingerprint,
    Geometry,
    Intensities,
    Structure,
    fingerprint,
    grey_values,
    intensities,
    structures,
    thick_axis,
)
from nnunetv2_cafr.quality.picture import Picture, draw

NUMBERED = re.compile(r"(.+)_[0-9]{4}")  # an image's name; that of a TIFF's spacing file leaves the channel out


@dataclass
class CaseReport:
    """All that the page shows of one case. Small: it travels between processes, the voxels do not."""

    identifier: str
    training: bool
    image_files: tuple[str, ...]
    mask_file: str | None
    patient: str | None
    geometry: Geometry | None = None
    intensities: list[Intensities] = field(default_factory=list)
    structures: list[Structure] = field(default_factory=list)
    fingerprints: list[Fingerprint | None] = field(default_factory=list)
    mask_fingerprint: str | None = None
    picture: Picture | None = None
    flat: bool = False  # whether a file has two dimensions, and so no place in the patient
    findings: list[Finding] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """Names of the structures that occur."""
        return {structure.name for structure in self.structures}


def inspect_case(files: CaseFiles, dataset: RawDataset, picture_size: int) -> CaseReport:
    """Everything that can be said of a case without the others.

    Args:
        picture_size: pixels of the picture's longer side, at most.
    """
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what ITK would warn about is checked and reported here
    report = CaseReport(
        files.identifier,
        files.training,
        tuple(map(dataset.relative, files.images)),
        None if files.mask is None else dataset.relative(files.mask),
        dataset.patients.get(files.identifier),
    )
    mask, labels = None, None
    if files.mask is not None:
        mask = _read(files.mask, report, dataset)
    if mask is not None and dataset.reorients:
        mask = _in_order_of(files.images[0], mask)
    if mask is not None and files.mask is not None:
        labels = _inspect_mask(mask, report, dataset, _is_oriented(files.mask, report))
    first = None
    for channel, path in enumerate(files.images):
        image = _read(path, report, dataset)
        report.fingerprints.append(None)
        if image is None:
            continue
        values = grey_values(image)
        source = checks.Source(report.identifier, dataset.relative(path))
        intensity = intensities(values)
        report.intensities.append(intensity)
        across = thick_axis(image.GetSpacing())
        axis = 0 if across is None or 1 in image.GetSize() else 2 - across
        report.findings += checks.check_grey_values(values, intensity, labels, source, axis)
        if intensity.minimum < intensity.maximum:
            report.fingerprints[channel] = fingerprint(values)
        if first is None:
            first = image
            _inspect_grid(image, mask, report, dataset, source)
        else:
            turned = _in_order_of(files.images[0], image) if dataset.reorients else image
            oriented = _is_oriented(path, report)
            report.findings += checks.check_same_grid(first, turned, source, oriented, "channel")
    if files.training and files.mask is not None and first is not None:
        report.findings += _ask_nnunet(files, report, dataset)
    if first is not None:
        same = mask is not None and mask.GetSize() == first.GetSize()
        names = {structure.label: structure.name for structure in report.structures}
        oriented = _is_oriented(files.images[0], report)
        report.picture = draw(first, labels if same else None, names, picture_size, oriented)
    return report


def _ask_nnunet(files: CaseFiles, report: CaseReport, dataset: RawDataset) -> Iterator[Finding]:
    """What nnU-Net's own check of a case has against it, where nothing else has been found to be an error."""
    if dataset.reader is None or files.mask is None or any(f.severity is Severity.ERROR for f in report.findings):
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images, mask = [str(path) for path in files.images], str(files.mask)
            passed = check_cases(images, mask, dataset.channels, dataset.reader)
            if dataset.expected_values is not None:
                passed &= verify_labels(mask, dataset.reader, list(dataset.expected_values))
    except Exception as error:  # nnU-Net's readers raise whatever their libraries do
        passed = False
        said.write(f"{type(error).__name__}: {error}")
    if not passed:
        lines = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
        errors = [line for line in lines if not line.lower().startswith("warning")]
        yield checks.Source(report.identifier, dataset.relative(files.images[0])).finding(
            Severity.ERROR,
            "nnU-Net's own check",
            " ".join(errors)[:400] or "a case that it does not take",
            "a case that nnUNetv2_plan_and_preprocess --verify_dataset_integrity takes",
            "correct the case, or dataset.json",
        )


def _inspect_grid(
    image: sitk.Image, mask: sitk.Image | None, report: CaseReport, dataset: RawDataset, source: checks.Source
) -> None:
    flat = report.flat or (image.GetSize()[2] == 1 and not source.file.lower().endswith(ENDINGS))
    report.geometry = Geometry.of(image, 2 if flat else 3)
    if dataset.labels.is_spine and _is_oriented(Path(source.file), report):
        report.findings += checks.check_plane(report.geometry, source)
        report.findings += checks.check_tilt(image, source)
    if mask is not None and report.mask_file is not None:
        oriented = not any(finding.check == "no orientation" for finding in report.findings)
        report.findings += checks.check_same_grid(
            image, mask, checks.Source(report.identifier, report.mask_file), oriented
        )


def _is_oriented(path: Path, report: CaseReport) -> bool:
    """Whether a file says which way is up: pictures have no such header, and some NIfTI files leave it empty."""
    unknown = report.flat or any(f.check == "no orientation" for f in report.findings)
    return path.name.lower().endswith(ENDINGS) and not unknown


def _inspect_mask(mask: sitk.Image, report: CaseReport, dataset: RawDataset, oriented: bool) -> np.ndarray:
    """Labels (z, y, x) as integers; fractions are rounded, after a finding has said so."""
    assert report.mask_file is not None
    source = checks.Source(report.identifier, report.mask_file)
    spine = dataset.labels.is_spine
    raw = grey_values(mask)
    values, counts = np.unique(raw, return_counts=True)
    report.findings += checks.check_labels(values, counts, dataset.labels, spine, source)
    report.findings += checks.check_stored_labels(values, counts, source)
    labels = np.rint(raw).astype(np.int32)
    if dataset.labels.ignore is not None:
        labels[labels == dataset.labels.ignore] = 0
    report.structures = structures(mask, labels, dataset.labels.names)
    report.mask_fingerprint = fingerprint(labels).values
    report.findings += checks.check_islands(report.structures, mask, source)
    if spine and oriented:
        report.findings += checks.check_order(report.structures, mask, source)
    if spine:
        report.findings += checks.check_discs(report.structures, labels, mask, source)
    return labels


def _read(path: Path, report: CaseReport, dataset: RawDataset) -> sitk.Image | None:
    """The volume, of three dimensions; None where it cannot be read, with a finding."""
    source = checks.Source(report.identifier, dataset.relative(path))
    if path.name.lower().endswith(ENDINGS):
        volume, problems = read_volume(path, flat=True)
        if volume is None and len(problems) == 1 and problems[0].found.startswith(NO_ORIENTATION):
            # nnU-Net reads such files, and so can we; only the order of the levels cannot be trusted.
            report.findings += [
                source.finding(Severity.WARNING, "no orientation", problem.found, problem.expected, problem.remedy)
                for problem in problems
            ]
            return _in_space(sitk.ReadImage(str(path)), report)
        report.findings += [
            source.finding(Severity.ERROR, "unusable file", problem.found, problem.expected, problem.remedy)
            for problem in problems
        ]
        return None if volume is None else _in_space(volume.image, report)
    try:
        # SimpleITK takes the pages of a TIFF for colours where they are three or four, and knows no spacing of them.
        image = _read_pages(path) if dataset.reader is Tiff3DIO else sitk.ReadImage(str(path))
    except Exception as error:  # tifffile raises nearly anything
        reader = "nnU-Net's Tiff3DIO" if dataset.reader is Tiff3DIO else "SimpleITK"
        found = f"a file that {reader} cannot read ({last_line(error)})"
        remedy = "export it again, or leave the case out"
        report.findings.append(source.finding(Severity.ERROR, "unusable file", found, "an image", remedy))
        return None
    if dataset.reader is Tiff3DIO and (match := NUMBERED.fullmatch(path.stem)):
        spacing = path.with_name(f"{match[1]}.json")
        if not spacing.is_file():
            expected = f"{spacing.name} beside it: without it, nnU-Net takes voxels for 1 mm cubes"
            remedy = 'write {"spacing": [slices, rows, columns]}, in mm, into that file'
            report.findings.append(source.finding(Severity.WARNING, "spacing", "no spacing file", expected, remedy))
    finite = _finite(image)
    if finite is not image:
        remedy = "replace them by a value that makes sense, or leave the case out"
        report.findings.append(
            source.finding(Severity.ERROR, "unusable file", "NaN or infinity", "finite values only", remedy)
        )
    return _in_space(finite, report)


def _in_space(image: sitk.Image, report: CaseReport) -> sitk.Image:
    """The image with three dimensions, and with finite values."""
    if image.GetDimension() == 4:  # the last of length one
        image = image[:, :, :, 0]
    elif image.GetDimension() == 2:
        report.flat = True
        image = sitk.JoinSeries(image)
    return _finite(image)


def _finite(image: sitk.Image) -> sitk.Image:
    """The image with 0 in place of NaN and infinity, as ITK reads them from NIfTI; itself where there are none."""
    values = sitk.GetArrayViewFromImage(image)
    if np.isfinite(values).all():
        return image
    finite = sitk.GetImageFromArray(
        np.nan_to_num(values, posinf=0, neginf=0), isVector=image.GetNumberOfComponentsPerPixel() > 1
    )
    finite.CopyInformation(image)
    return finite


def _read_pages(path: Path) -> sitk.Image:
    """A TIFF of several pages (z, y, x), with the spacing of the JSON file beside it; as nnU-Net reads it."""
    reader = Tiff3DIO()
    is_image = NUMBERED.fullmatch(path.stem)
    with contextlib.redirect_stdout(io.StringIO()):
        (array,), properties = reader.read_images([str(path)]) if is_image else reader.read_seg(str(path))
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(step) for step in properties["spacing"][::-1]])
    return image


def _in_order_of(image: Path, mask: sitk.Image) -> sitk.Image:
    """A mask in the voxel order of its image, as after both were turned by a reorienting reader."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(image))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return mask  # which is said when the image is read
    direction = reader.GetDirection()
    if len(direction) != 9:
        return mask
    return orient(mask, sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction))
