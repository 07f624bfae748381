"""Finds the images to predict, and hands each to nnU-Net's own reader.

An image is a NIfTI, MetaImage or NRRD file, a folder with DICOM files, or a file as the network was trained on. Names
are nnU-Net's, CASE_0000.nii.gz with the number of the channel, or anything else for networks with one channel. Files
are read as by the converters, which refuse what is damaged or cannot be a volume; what is not read is named.
"""

import hashlib
import re
import shutil
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from dataset_conversion.contrast import doubt_about_contrast
from dataset_conversion.dicom import find_torn, holds_images, holds_slices, is_dicom, list_dicom
from dataset_conversion.geometry import check_same_grid, check_tilt, tilt_of
from dataset_conversion.problems import Problem, lines_of
from dataset_conversion.reading import FILE_ENDINGS, NO_ORIENTATION, Volume, files_of, read_volume
from nnunetv2_cafr.deployment.description import Description
from nnunetv2_cafr.deployment.orders import UnknownOrderError, grid_in_order, read_in_order
from nnunetv2_cafr.errors import UserError, last_line, millimetres, shorten
from nnunetv2_cafr.files import sha256
from nnunetv2_cafr.levels.decoding import FIELD_OF_VIEW, TILT, TILTED
from nnunetv2_cafr.levels.field_of_view import doubt_about_height, height_of, height_shown
from nnunetv2_cafr.voxel_order import NO_ORDER

SHOWN = 10  # files left out that are named one by one
GIVE_ALL = "give the files of all channels, or the folder that holds them"
FEWEST_PIXELS = 8  # along each side of a slice: less shows nothing; ours
CONTRAST, PLANE, VALUES = "another contrast", "another plane", "values far off"  # doubts
LEAST_CONTRAST = 0.5  # that padding may leave, of the contrast without it; ours
OF_LEVELS = (FIELD_OF_VIEW, TILTED)  # of which a whole row of levels may be wrong
EMPTY = 0.1  # of a scan's height, that shows nothing; ours
LARGEST_VALUE = 1e14  # of an image: float32 holds the sum of the squares of a thousand million such voxels
LARGEST_RATIO = 20  # between an image's pixels and those that the network was trained on; ours


class UnusableStudyError(ValueError):
    """A study that cannot be predicted; its text says what was found, what was expected and what to do."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(line for one in problems for line in (str(one.path), *lines_of(one))))


@dataclass
class Study:
    """One case to predict: the image of each channel, a file or a folder with a DICOM series.

    What follows is filled when it is read.

    Args:
        notes: what was left out or taken for granted, and the doubts' reasons.
        doubts: why its label map may be wrong, by what they are of.
    """

    name: str
    images: dict[int, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    doubts: dict[str, str] = field(default_factory=dict)


def series_of(study: Study) -> Path | None:
    """The folder of the DICOM series that a study's first channel is; None where it is a file."""
    first = study.images[min(study.images)]
    return first if first.is_dir() else None


def fingerprint(study: Study) -> str:
    """SHA-256 over the files of a study's images; of a DICOM series, over all DICOM files in its folder.

    Raises:
        OSError: if one cannot be read.
    """
    digest = hashlib.sha256()
    for _, image in sorted(study.images.items()):
        digest.update("".join(map(sha256, files_of(image))).encode())
    return digest.hexdigest()


def find_studies(
    paths: Sequence[Path],
    description: Description,
    out: Path | None = None,
    notify: Callable[[str], object] = print,
) -> list[Study]:
    """All studies in files and folders. A folder holds images, or DICOM files, or a folder of these for each study.

    Args:
        out: the label maps' folder, which needs no mention among what is left out.
        notify: is told which files and folders are left out.

    Raises:
        UserError: if a path does not exist or holds nothing, two images would be the same channel of a study, or a
            DICOM series lies in parts in two folders.
    """
    endings = _endings(description)
    studies: dict[str, Study] = {}
    for path in paths:
        images, left_out = _images_in(path, endings, description.reads_volumes, out)
        expected = f"{', '.join(endings)}{', or folders with DICOM series' if description.reads_volumes else ''}"
        if not images:
            raise UserError(f"{path} holds no images: expected are {expected}")
        if left_out:
            notify(f"Left out of {path}: {shorten(left_out, SHOWN)} (read are {expected})")
        for image in images:
            name, channel = _case_and_channel(image, endings, len(description.channel_names))
            # Some file systems take two names for one that differ in upper and lower case, or in how accents are coded.
            study = studies.setdefault(unicodedata.normalize("NFC", name).casefold(), Study(name))
            if channel in study.images or name != study.name:
                other = study.images.get(channel) or next(iter(study.images.values()))
                raise UserError(
                    f"{other} and {image} would both be {name}, channel {channel}: rename one, or "
                    "predict them into different folders"
                )
            study.images[channel] = image
    folders = [image for study in studies.values() for image in study.images.values() if image.is_dir()]
    if len(folders) > 1 and (torn := find_torn(folders)):
        raise UserError(
            f"{torn[0]} and {torn[1]} hold slices of one DICOM series, expected are all slices of a series in one "
            "folder: each part would be a study of its own. Put them together"
        )
    return list(studies.values())


def _endings(description: Description) -> tuple[str, ...]:
    """Endings of the files that can be read, in lower case."""
    own = description.file_ending.lower()
    return tuple(dict.fromkeys((*FILE_ENDINGS, own) if description.reads_volumes else (own,)))


def _images_in(path: Path, endings: tuple[str, ...], volumes: bool, out: Path | None) -> tuple[list[Path], list[str]]:
    """Images, and the names of what else there is."""
    if not path.exists():
        raise UserError(f"There is no {path}")
    if path.is_file():
        return [path], []
    inside = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".")]
    images = [entry for entry in inside if not entry.is_dir() and entry.name.lower().endswith(endings)]
    others = [entry for entry in inside if entry not in images]
    if volumes:
        loose = [entry for entry in others if is_dicom(entry)]
        if any(entry.name.upper() == "DICOMDIR" for entry in loose) or holds_slices(loose):
            # One study, with all folders in it: as a CD holds it, or a series with reports in a folder beside.
            images.append(path.resolve() if path.name == ".." else path.absolute())
            others = [entry for entry in others if entry not in loose and not (entry.is_dir() and list_dicom(entry))]
        else:
            series = [entry for entry in others if entry.is_dir() and holds_images(list_dicom(entry))]
            images += series
            others = [entry for entry in others if entry not in series]
            if not images and holds_images(loose):  # slices without their place: reading them says what is wrong
                images, others = [path.absolute()], [entry for entry in others if entry not in loose]
        voxels = {file for image in images if image.suffix.lower() == ".mhd" for file in files_of(image)}
        others = [entry for entry in others if entry not in voxels]
    if out is not None and out.exists():
        others = [one for one in others if not (one.exists() and one.samefile(out))]
    return sorted(images), [f"{one.name}/" if one.is_dir() else one.name for one in others]


def _case_and_channel(image: Path, endings: tuple[str, ...], channels: int) -> tuple[str, int]:
    name = image.name
    if not image.is_dir():
        ending = next((ending for ending in endings if name.lower().endswith(ending)), image.suffix)
        name = name[: len(name) - len(ending)]
    match = re.fullmatch(r"(.+)_(\d{4})", name)
    if match and int(match[2]) < channels:
        return match[1], int(match[2])
    return name, 0


def read_study(study: Study, description: Description) -> tuple[np.ndarray, dict[str, Any]]:
    """Image (c, z, y, x) and its geometry, from the reader of nnU-Net that the plans name.

    Voxels are in the order that the network was trained on, if that is known. What the reader is not made for (DICOM to
    begin with) goes through a temporary file.

    Raises:
        UnusableStudyError: if channels are missing, or an image is damaged, no volume, or nothing that this network
            can have been trained for.
    """
    names = description.channel_names
    first = next(iter(study.images.values()))
    one_file = not description.reads_volumes and len(study.images) == 1  # all channels of a picture are in one
    missing = [f"{number} ({name})" for number, name in enumerate(names) if number not in study.images]
    if missing and not one_file:
        found = f"of the {len(names)} channels of the network, {', '.join(missing)} is missing"
        expected = f"files {study.name}_0000{description.file_ending} and so on"
        raise UnusableStudyError([Problem(first, found, expected, GIVE_ALL)])
    reader = description.plans.image_reader_writer_class()
    volumes: dict[Path, Volume | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        channels = [image for _, image in sorted(study.images.items())]
        if description.reads_volumes:
            volumes = {image: _read(image, description, study.notes) for image in channels}
            _check_grids(volumes)
            files = [str(_volume_for(image, volumes[image], Path(folder), reader)) for image in channels]
        else:
            files = [str(_picture_for(image, Path(folder), description)) for image in channels]
        try:
            image, properties = read_in_order(reader, files, description.voxel_order)
        except UnknownOrderError as error:
            raise UnusableStudyError([replace(error.problem, path=first)]) from error
        except Exception as error:  # of a damaged picture, or channels that do not fit, readers raise nearly anything
            reason = last_line(error) if str(error) else "channels of different size or spacing?"
            found = f"an image that nnU-Net's {description.reader} cannot read ({reason})"
            expected = f"an intact {description.file_ending} file for each channel, on one grid"
            raise UnusableStudyError([Problem(first, found, expected, "export it again")]) from error
    if description.reads_volumes and (problem := _check_unit(first, volumes[first], properties)):
        raise UnusableStudyError([problem])
    tilted = _doubt_about_tilt(volumes, description)
    if problem := _check_image(first, image, properties, description):
        raise UnusableStudyError([problem])
    if doubts := [
        f"{other}, and the network was trained on {names[number]}"
        for number, path in sorted(study.images.items())
        if (volume := volumes.get(path)) is not None and volume.acquisition is not None
        if (other := doubt_about_contrast(volume.acquisition, names[number]))
    ]:
        study.doubts[CONTRAST] = "; ".join(doubts)
    if doubt := _doubt_about_plane(image, properties, description):
        study.doubts[PLANE] = doubt
    if tilted:
        study.doubts[TILTED] = tilted
    if doubt := _doubt_about_values(image, description):
        study.doubts[VALUES] = doubt
    if doubt := _doubt_about_height(image, properties, description):
        study.doubts[FIELD_OF_VIEW] = doubt
    study.notes += study.doubts.values()
    for name, channel in zip(names, image, strict=True):
        if channel.min() == channel.max():
            study.notes.append(f"the value {channel.min():g} in every voxel of {name}: its label map means nothing")
    return image, properties


def _read(image: Path, description: Description, notes: list[str]) -> Volume | None:
    """A volume as the converters read it; None for formats that only nnU-Net's reader knows."""
    if (
        not image.is_dir()
        and not image.name.lower().endswith(FILE_ENDINGS)
        and image.name.endswith(description.file_ending)
    ):
        return None
    volume, problems = read_volume(image, flat=description.flat)
    unplaced = volume is None and len(problems) == 1 and problems[0].found.startswith(NO_ORIENTATION)
    if unplaced and set(description.training_voxel_orders) == {NO_ORDER} and not image.is_dir():
        notes.append("no orientation in its header: read as it is stored, as all cases that the network was trained on")
        return None
    if volume is None or problems:
        raise UnusableStudyError(problems)
    notes += volume.notes
    return volume


def _check_grids(volumes: Mapping[Path, Volume | None]) -> None:
    """Makes sure that the channels of a study lie in one place; their voxel order may differ."""
    (first, one), *others = volumes.items()
    for path, other in others:
        if one is None or other is None or not one.image.GetDimension() == other.image.GetDimension() == 3:
            continue
        remedy = f"resample it to the grid of {first.name}, or find the channel that belongs to it"
        if problems := check_same_grid(path, other.image, first, one.image):
            raise UnusableStudyError([replace(problem, remedy=remedy) for problem in problems])


def _volume_for(image: Path, volume: Volume | None, folder: Path, reader: Any) -> Path:
    """The file that nnU-Net's reader is given for a volume: the image itself, if it can read that."""
    supported = tuple(reader.supported_file_endings)
    if volume is None or (not image.is_dir() and image.name.endswith(supported) and not volume.squeezed):
        return image
    ending = next(ending for ending in (".mha", ".nii.gz") if ending in supported)
    file = folder / f"{len(list(folder.iterdir()))}{ending}"
    sitk.WriteImage(volume.image, file)
    return file


def _picture_for(image: Path, folder: Path, description: Description) -> Path:
    """The file that nnU-Net's reader is given for a picture, or another image that is no medical volume."""
    ending = description.file_ending
    if image.is_dir() or not image.name.lower().endswith(ending.lower()):
        found = f"a file of the format {image.suffix!r}" if not image.is_dir() else "a folder"
        expected = f"{ending}, as the network was trained on"
        raise UnusableStudyError([Problem(image, found, expected, f"convert it to {ending}, without loss")])
    numbered = re.fullmatch(r"(.+)_\d{4}", stem := image.name[: -len(ending)])
    if image.name.endswith(ending) and (numbered or description.reader != "Tiff3DIO"):
        return image
    number = len(list(folder.iterdir()))
    # Tiff3DIO looks for the spacing in a JSON file that it names after the image, less the number of the channel.
    spacing = image.with_name(f"{numbered[1] if numbered else stem}.json")
    if description.reader == "Tiff3DIO" and spacing.is_file():
        shutil.copy(spacing, folder / f"{number}.json")
    return Path(shutil.copy(image, folder / f"{number}_0000{ending}"))


def _check_unit(path: Path, volume: Volume | None, properties: dict[str, Any]) -> Problem | None:
    """Whether nnU-Net's reader sees the spacing that the header means: nibabel takes all units for mm."""
    if volume is None or volume.image.GetDimension() != 3:
        return None
    meant, read = (np.sort(spacing) for spacing in (volume.image.GetSpacing(), properties["spacing"]))
    if np.allclose(meant, read, rtol=1e-3):
        return None
    found = (
        f"a spacing of {millimetres(meant)} by the header's unit, which nnU-Net's reader takes for {millimetres(read)}"
    )
    return Problem(path, found, "a header in mm", "write spacing and unit (mm) into the header, or convert it again")


def _check_image(path: Path, image: np.ndarray, properties: dict[str, Any], description: Description) -> Problem | None:
    """Whether the network can have been trained for an image (c, z, y, x) of this size and spacing."""
    plans, configuration = description.plans, description.configuration
    if len(image) != len(description.channel_names):
        names = ", ".join(description.channel_names)
        found = f"{len(image)} channels"
        return Problem(path, found, f"{len(description.channel_names)}: {names}", "find the image that has them")
    if not (np.abs(image) <= LARGEST_VALUE).all():  # NaN is not, either
        found = "NaN, infinity or values that are too large for float32 to calculate with"
        return Problem(path, found, "finite values only", "replace them by a value that makes sense")
    order = plans.transpose_forward
    size = [image.shape[1 + axis] for axis in order][1:]
    if min(size) < FEWEST_PIXELS:
        found = f"slices of {' x '.join(map(str, size))} pixels"
        return Problem(
            path, found, f"at least {FEWEST_PIXELS} along each side", "find the scan itself, not a part of it"
        )
    spacing = [float(properties["spacing"][axis]) for axis in order][1:]
    trained = [float(step) for step in configuration.spacing][-2:]
    ratios = np.divide(spacing, trained)
    if not ((ratios >= 1 / LARGEST_RATIO) & (ratios <= LARGEST_RATIO)).all():
        found = f"pixels of {millimetres(spacing)}"
        expected = f"mm, near the {millimetres(trained)} that the network was trained on (within {LARGEST_RATIO} times)"
        remedy = "correct the spacing in the header, which may be in metres or of another scan"
        return Problem(path, found, expected, remedy)
    return None


def _doubt_about_height(image: np.ndarray, properties: dict[str, Any], description: Description) -> str | None:
    """Says so if the scan (c, z, y, x) shows less or more than the training cases, and the labels are levels."""
    if description.spine is None or description.training_heights is None:
        return None
    grid = grid_in_order(image.shape[1:], properties, description.voxel_order)
    height, shown = height_of(image.shape[1:], grid), height_shown(image, grid)
    if height is not None and shown is not None and shown < (1 - EMPTY) * height:
        return doubt_about_height(shown, description.training_heights, True)
    return doubt_about_height(height, description.training_heights)


def _doubt_about_tilt(volumes: Mapping[Path, Volume | None], description: Description) -> str | None:
    """Says so if the image lies oblique in the patient, and the labels are levels.

    Raises:
        UnusableStudyError: if it does so much that its rows could as well run along another axis.
    """
    if description.spine is None:
        return None
    images = {path: one.image for path, one in volumes.items() if one and one.image.GetDimension() == 3}
    if problems := [problem for path, one in images.items() for problem in check_tilt(path, one)]:
        raise UnusableStudyError(problems)
    tilt = max(map(tilt_of, images.values()), default=0.0)
    if tilt <= TILT:
        return None
    return f"it is turned by {tilt:.0f} degrees against the patient, and a network tells levels by where they lie"


def _doubt_about_values(image: np.ndarray, description: Description) -> str | None:
    """Says so if padding or single voxels of an image (c, z, y, x) take the contrast from all others.

    Normalization divides by the standard deviation of all. Zeros around the image do not count: nnU-Net crops them.
    """
    schemes = description.configuration.normalization_schemes
    for name, channel, scheme in zip(description.channel_names, image, schemes, strict=True):
        if scheme != "ZScoreNormalization":
            continue
        for value in {channel.min(), channel.max()} - {0}:
            others = channel[channel != value]
            if not others.size:
                continue
            low, high, deviation = others.min(), others.max(), others.std(dtype=float)
            contrast = deviation / channel.std(dtype=float)
            if max(low - value, value - high) > deviation > 0 and contrast < LEAST_CONTRAST:
                return (
                    f"{(channel == value).mean():.2%} of the voxels of {name} are {value:g}, and all others are "
                    f"{low:g} to {high:g}: padding, or a fault? It leaves them {contrast:.0%} of their contrast; crop "
                    "the image, or write a value of that range there"
                )
    return None


def _doubt_about_plane(image: np.ndarray, properties: dict[str, Any], description: Description) -> str | None:
    """Says so if the scan's thick slices (c, z, y, x) lie across the network's own, as an axial series' do."""
    through, *within = description.plans.transpose_forward
    size, spacing = image.shape[1:], properties["spacing"]
    if not any(spacing[axis] > 1.5 * spacing[through] and size[axis] < size[through] for axis in within):  # 1.5 is ours
        return None
    trained = [float(step) for step in description.configuration.spacing][-2:]
    return (
        f"its slices lie in another plane than those that the network was trained on: there its pixels are "
        f"{millimetres([float(spacing[axis]) for axis in within])}, not {millimetres(trained)}. Its label map is "
        "doubtful; predict the series of the right plane (sagittal, where the network's cases are)"
    )


def preprocess(study: Study, description: Description) -> tuple[np.ndarray, dict[str, Any]]:
    """The image (c, d, h, w) as the network sees it, by nnU-Net's preprocessor, and how to get back from there."""
    preprocessor = description.configuration.preprocessor_class(verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, over values that are looked at here
        image, properties = read_study(study, description)
        image, _, properties = preprocessor.run_case_npy(
            image, None, properties, description.plans, description.configuration, description.dataset_json
        )
    if not np.isfinite(image).all():
        first = next(iter(study.images.values()))
        found = "values that are NaN or infinite after nnU-Net's normalisation"
        raise UnusableStudyError([Problem(first, found, "an image with contrast", "look at the image")])
    return image, properties
