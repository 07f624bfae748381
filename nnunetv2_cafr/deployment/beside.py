"""What lies beside predict's label maps: one page of all studies, measurements, names and colours for viewers.

It is made when the label maps are there, from the files, so that nothing that fails here can take one of them along.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import SimpleITK as sitk
from tqdm import tqdm

from nnunetv2_cafr.deployment.label_maps import SEGMENTATION, LabelMaps
from nnunetv2_cafr.deployment.record import PredictionRecord, remove_files, write_files
from nnunetv2_cafr.deployment.studies import Study, read_study, series_of
from nnunetv2_cafr.files import sha256
from nnunetv2_cafr.levels.files import decoding_of, read_decodings
from nnunetv2_cafr.measurements.label_map import read_label_map
from nnunetv2_cafr.measurements.tables import JSON_FILE, as_json, table_files
from nnunetv2_cafr.preview import PAGE_FILE, PICTURES
from nnunetv2_cafr.preview.page import Part, part_of, parts_in, render
from nnunetv2_cafr.preview.study import NOT_MEASURED, OF_NUMBERING, SIGNAL_VOID, Labels, StudyPreview, preview
from nnunetv2_cafr.viewers import colour_files

FAILED, NO_IMAGE = "not predicted", "image not shown"  # doubts


@dataclass(frozen=True)
class _Written:
    """What there is to say of it: names of what is written once for all studies and, by study, the rest."""

    files: Sequence[str] = ()
    without_segmentation: Mapping[str, str] = field(default_factory=dict)  # why it has no DICOM SEG
    levels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # why in doubt, where they were not decoded
    voids: Mapping[str, str] = field(default_factory=dict)  # what was outlined where nothing is to be seen


def write_beside(studies: Sequence[Study], failed: Mapping[str, str], maps: LabelMaps) -> int:
    """Writes all of it, or says why it could not; returns the exit status.

    What an earlier call left of label maps that are still as they were is kept.

    Args:
        studies: of this call.
        failed: of these, why they have no label map.
    """
    try:
        written = _write(studies, failed, maps)
    except Exception as error:  # whatever it is, the label maps are written
        reason = f"{type(error).__name__}: {error}"
        print(f"The label maps are whole, but what lies beside them was not written ({reason})")
        print("nnUNetv2_cafr measure makes it from the label maps")
        return 1
    if written.files:
        print(f"Beside them: {', '.join(sorted(written.files))}")
    if written.levels:
        number = f"{len(written.levels)} of {len(studies)} studies"
        print(f"Levels are doubtful in {number} (see --levels, and {PAGE_FILE}):")
    for name, doubts in written.levels.items():
        print(f"  {name}: " + "; ".join(f"{kind} ({reason})" for kind, reason in doubts.items()))
    for name, reason in written.voids.items():
        print(f"Note on {name}: {reason}")
    for name, reason in written.without_segmentation.items():
        print(f"No DICOM SEG of {name}: {reason}")
    return int(bool(written.without_segmentation))


def _write(studies: Sequence[Study], failed: Mapping[str, str], maps: LabelMaps) -> _Written:
    labels = Labels.of(maps.description.dataset_json)
    decodings = read_decodings(maps.folder)
    record = PredictionRecord(maps.folder).label_maps
    decoded = {
        file.removesuffix(maps.ending) for file, entry in record.items() if entry.get("settings", {}).get("levels")
    }
    sources = _sources(maps)
    if not sources:
        return _Written()
    without: dict[str, str] = {}
    parts, measured = _of_earlier_calls(maps, sources)
    of_then = {name for name, part in parts.items() if {FAILED, NO_IMAGE} & set(part.row["doubts"])}
    for study in tqdm(studies, desc="preview", unit="study"):
        picture = f"{PICTURES}/{study.name}.png"
        segmented = f"{study.name}{SEGMENTATION}"
        if study.name not in parts:  # nothing of another label map stays beside this one
            remove_files(maps.folder, [picture, segmented])
        if maps.dicom_seg and study.name in sources and not _is_of_its_series(study, maps, segmented):
            try:
                write_files(maps.folder, {segmented: _segmentation(study, maps, labels)})
            except ValueError as error:
                without[study.name] = str(error)
        fault = {FAILED: failed[study.name]} if study.name in failed else {}
        is_shown = study.name in parts and study.name not in of_then
        if is_shown and not fault and (not maps.png or PredictionRecord(maps.folder).has(picture)):
            continue
        if study.name not in sources:
            parts[study.name] = part_of(StudyPreview(study.name, doubts=fault or {FAILED: "there is no label map"}))
            continue
        decoding = decoding_of(maps.target(study), decodings.get(study.name)) if study.name in decoded else None
        doubts = record[maps.target(study).name].get("doubts", {})
        one = _look_at(study, maps, labels, decoding, sources[study.name], doubts)
        parts[study.name] = part_of(replace(one, doubts={**fault, **one.doubts}))
        measured.pop(study.name, None)
        if one.measurements is not None:
            measured[study.name] = as_json(one.measurements)
        if one.png:
            write_files(maps.folder, {picture: one.png})
    names = {study.name for study in studies}
    for kept, then in zip((parts, measured), _of_earlier_calls(maps, _sources(maps)), strict=True):
        for name in kept.keys() - names:  # another call may have gone on beside this one: what it left is newer
            del kept[name]
        kept |= {name: one for name, one in then.items() if name not in names}
    files = {PAGE_FILE: _page(parts, studies, maps)}
    if labels.spine is not None:
        reasons = {name: part.row["doubts"].get(NOT_MEASURED) for name, part in parts.items()}
        not_measured = {name: reason for name, reason in reasons.items() if reason}
        of_parts = {name: measured[name] for name in sorted(measured) if name in parts}
        files |= table_files(of_parts, not_measured, {"network": str(maps.model)})
    if maps.has_single_labels():
        files |= colour_files(maps.description.dataset_json["labels"])
    write_files(maps.folder, {name: text.encode("utf-8", "backslashreplace") for name, text in files.items()})
    doubts = {study.name: parts[study.name].row["doubts"] for study in studies if study.name not in failed}
    levels = {
        name: of_levels
        for name, found in doubts.items()
        if name not in decoded and (of_levels := {kind: found[kind] for kind in found if kind in OF_NUMBERING})
    }
    voids = {name: found[SIGNAL_VOID] for name, found in doubts.items() if SIGNAL_VOID in found}
    return _Written(list(files), without, levels, voids)


def _sources(maps: LabelMaps) -> dict[str, str]:
    """What each study's part of the page is of, by name: its label map and its images as they are, and its levels."""
    return {
        file.removesuffix(maps.ending): f"{sha256(maps.folder / file)} of {entry.get('images')}"
        + " with levels" * bool(entry.get("settings", {}).get("levels"))
        for file, entry in PredictionRecord(maps.folder).label_maps.items()
        if file.endswith(maps.ending) and (maps.folder / file).is_file()
    }


def _of_earlier_calls(maps: LabelMaps, sources: Mapping[str, str]) -> tuple[dict[str, Part], dict[str, Any]]:
    """Parts of the page that are of `sources`, and measures, by study."""
    parts = {
        part.row["name"]: part
        for part in parts_in(PredictionRecord(maps.folder).text_of(PAGE_FILE) or "")
        if part.row["source"] == sources.get(part.row["name"])
    }
    before = PredictionRecord(maps.folder).text_of(JSON_FILE)
    return parts, {} if before is None else json.loads(before)["studies"]


def _page(parts: Mapping[str, Part], studies: Sequence[Study], maps: LabelMaps) -> str:
    about = {"Label maps": maps.folder, "Network": maps.model, "Of the last call": f"{len(studies)} studies"}
    return render(parts.values(), maps.folder.resolve().name, about)


def _look_at(
    study: Study,
    maps: LabelMaps,
    labels: Labels,
    decoding: Mapping[str, Any] | None,
    source: str,
    of_image: Mapping[str, str],
) -> StudyPreview:
    doubts = dict(of_image)
    trained = maps.description.training_heights
    try:
        try:
            mask, image = _read(study, maps, labels)
        except Exception as error:  # of images, readers raise nearly anything
            doubts[NO_IMAGE] = str(error) or repr(error)
            mask, image = read_label_map(maps.target(study), labels.names)
        one = preview(study.name, mask, image, labels, decoding, source, maps.png, trained)
    except Exception as error:
        one = StudyPreview(study.name, doubts={NOT_MEASURED: str(error) or repr(error)}, source=source)
    return replace(one, doubts={**doubts, **one.doubts})


def _is_of_its_series(study: Study, maps: LabelMaps, segmented: str) -> bool:
    """Whether a study's DICOM SEG is there, and of the series as it is now: the same voxels may get another patient."""
    if (folder := series_of(study)) is None or not PredictionRecord(maps.folder).has(segmented):
        return False
    from nnunetv2_cafr.deployment.dicom_seg import refers_to

    return refers_to(maps.folder / segmented, folder)


def _segmentation(study: Study, maps: LabelMaps, labels: Labels) -> bytes:
    """The label map as a DICOM SEG.

    Raises:
        ValueError: if the study is no DICOM series, or one that gives none.
    """
    folder = series_of(study)
    if folder is None:
        raise ValueError(f"{study.images[min(study.images)]} is a file, expected a folder with its DICOM series")
    from nnunetv2_cafr.deployment.dicom_seg import segmentation

    mask, _ = read_label_map(maps.target(study), labels.names)
    return segmentation(mask, folder, labels.names, maps.model.name)


def _read(study: Study, maps: LabelMaps, labels: Labels) -> tuple[sitk.Image, sitk.Image | None]:
    """Label map and first channel on one grid, of three dimensions."""
    if maps.description.reads_volumes:
        return read_label_map(maps.target(study), labels.names, study.images[min(study.images)])
    channels, properties = read_study(study, maps.description)
    reader = maps.description.plans.image_reader_writer_class()
    values, _ = reader.read_seg(str(maps.target(study)))
    mask, image = sitk.GetImageFromArray(values[0].astype("uint16")), sitk.GetImageFromArray(channels[0])
    for one in (mask, image):
        one.SetSpacing([float(step) for step in reversed(properties["spacing"])])
    return mask, image
