"""The two documents in a data set's folder: `dataset.json` for nnU-Net, `provenance.json` for whoever asks later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataset_conversion.collection import Collection
from dataset_conversion.labels import Labelling
from dataset_conversion.writing import FILE_ENDING
from nnunetv2_cafr.files import write_json
from nnunetv2_cafr.voxel_order import RECOMMENDED_READER


def converter_version() -> str:
    return version("nnunetv2-cafr")


def write_dataset_json(collection: Collection, labelling: Labelling, converter: str, folder: Path) -> None:
    """Write nnU-Net's description of the data set."""
    content: dict[str, Any] = {
        "name": collection.name,
        "description": collection.description,
        "reference": collection.reference,
        "licence": collection.licence,
        "converted_by": f"{converter} of nnunetv2-cafr",
        "channel_names": {"0": collection.channel},
        "labels": dict(labelling.labels),
        "numTraining": collection.num_training,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": RECOMMENDED_READER,
    }
    if labelling.regions_class_order is not None:
        content["regions_class_order"] = list(labelling.regions_class_order)
    write_json(folder / "dataset.json", content)


def write_provenance(
    collection: Collection,
    options: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    converter: str,
    folder: Path,
) -> None:
    """Write where every case comes from.

    Args:
        records: by identifier, `sha256` of image and mask and the `original_orientation`.
    """

    def relative(path: Path | None) -> str | None:
        return None if path is None else path.relative_to(collection.source).as_posix()

    content = {
        "converter": converter,
        "version": converter_version(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "source": str(collection.source.resolve()),
        "options": dict(options),
        "cases": {
            case.identifier: {
                "patient": case.patient,
                "image": relative(case.image),
                "mask": relative(case.mask),
                "sha256": records[case.identifier]["sha256"],
                "original_orientation": records[case.identifier]["original_orientation"],
                "subset": case.subset,
            }
            for case in collection.cases
        },
    }
    write_json(folder / "provenance.json", content)
