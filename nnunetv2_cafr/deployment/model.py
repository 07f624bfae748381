"""A trained network in Python: what `nnUNetv2_cafr predict` does, image by image."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice

from nnunetv2_cafr.deployment.description import Description
from nnunetv2_cafr.deployment.labelling import label_map
from nnunetv2_cafr.deployment.level_decoding import LevelDecoder
from nnunetv2_cafr.deployment.library import find_model
from nnunetv2_cafr.deployment.orders import as_stored
from nnunetv2_cafr.deployment.runtime import Network, load_network
from nnunetv2_cafr.deployment.sliding_window import predict_logits
from nnunetv2_cafr.deployment.studies import OF_LEVELS, Study, preprocess
from nnunetv2_cafr.errors import UserError, counted
from nnunetv2_cafr.levels.decoding import Decoding
from nnunetv2_cafr.measurements.label_map import LabelMap
from nnunetv2_cafr.measurements.study import StudyMeasurements
from nnunetv2_cafr.measurements.study import measure as measure_study
from nnunetv2_cafr.spine import read_spine
from nnunetv2_cafr.voxel_order import is_order

Image: TypeAlias = sitk.Image | np.ndarray | str | Path


@dataclass(frozen=True)
class Prediction:
    """The label map of an image, and what is known about it.

    Args:
        labels: on the image's own grid.
        names: of the labels, by value; regions have several.
        decoding: the levels' confidence and flags; None where they were not decoded.
        notes: what was left out of the image, or taken for granted.
    """

    labels: sitk.Image
    names: dict[str, int | list[int]]
    decoding: Decoding | None = None
    notes: list[str] = field(default_factory=list)

    def measure(self) -> StudyMeasurements:
        """Heights, angles and volumes of the spine, as `nnUNetv2_cafr measure` has them.

        Raises:
            ValueError: if the labels are not spine levels, or the image is a single slice.
        """
        return measure_study(LabelMap.of(self.labels), read_spine(self.names))


@dataclass(frozen=True)
class Model:
    """An exported network that is ready to predict; `load_model` makes it."""

    description: Description
    network: Network
    mirroring_axes: tuple[int, ...]
    step_size: float

    def predict(
        self,
        image: Image | Sequence[Image],
        *,
        spacing: Sequence[float] | None = None,
        voxel_order: str | None = None,
        levels: bool = False,
    ) -> Prediction:
        """The label map of one image.

        Args:
            image: a 3-D image in patient coordinates, a file or folder that `nnUNetv2_cafr predict` reads, or an array
                (z, y, x), which needs `spacing` in mm (z, y, x) and `voxel_order`, three letters that say whereto
                x, y and z run (SpineMRI's is PIR: backwards, downwards, to the right). Of a network with several
                channels, a list of one for each.
            levels: makes the numbering of the vertebrae consistent.

        Raises:
            ValueError: if the image is damaged, no volume, or nothing that the network can have been trained for, or
                the labels have no order that `levels` could keep.
        """
        with tempfile.TemporaryDirectory() as folder:
            images: Sequence[Image] = [image] if isinstance(image, Image) else image
            if not isinstance(images, list | tuple) or not all(isinstance(one, Image) for one in images):
                raise ValueError(
                    f"a {type(image).__name__}; expected a SimpleITK image, an array, a path, or a list of these"
                )
            names = self.description.channel_names
            if self.description.reads_volumes and len(images) != len(names):
                given = counted(len(images), "image")
                raise ValueError(f"{given}; expected one for each of the {len(names)} channels: {', '.join(names)}")
            files = {
                channel: _file_of(one, spacing, voxel_order, Path(folder, f"image_{channel}.mha"))
                for channel, one in enumerate(images)
            }
            study = Study(files[0].name, files)
            segmentation, geometry, decoding = self.predict_study(study, levels)
            return Prediction(
                self._on_own_grid(segmentation, geometry, Path(folder)),
                self.description.dataset_json["labels"],
                decoding,
                study.notes,
            )

    def predict_study(self, study: Study, levels: bool = False) -> tuple[np.ndarray, dict, Decoding | None]:
        """Label map (z, y, x) in the study's own voxel order, what nnU-Net's reader keeps of its grid, and the levels.

        Raises:
            UnusableStudyError: as `read_study` does.
            ValueError: if `levels` are asked for where the labels have no order.
        """
        decoder = LevelDecoder(self.description) if levels else None
        segmentation, geometry = predict_labels(self, study, decoder)
        decoding = decoder.decode(segmentation, geometry) if decoder else None
        if decoding:
            doubts = {kind: study.doubts[kind] for kind in OF_LEVELS if kind in study.doubts}
            decoding = replace(decoding, flags={**decoding.flags, **doubts})
        labels = decoding.labels if decoding else segmentation
        if not labels.any():
            study.notes.append("nothing was found: its label map holds background alone")
        return as_stored(labels, geometry, self.description.voxel_order), geometry, decoding

    def _on_own_grid(self, segmentation: np.ndarray, geometry: dict, folder: Path) -> sitk.Image:
        """The label map as nnU-Net's writer puts it on the image's grid."""
        writer = self.description.plans.image_reader_writer_class()
        ending = ".mha" if ".mha" in writer.supported_file_endings else self.description.file_ending
        file = folder / f"labels{ending}"
        writer.write_seg(segmentation, str(file), geometry)
        return sitk.ReadImage(file)


def load_model(
    model: str | Path,
    *,
    runtime: str = "openvino",
    precision: str = "float32",
    threads: int | None = None,
    mirroring: bool = True,
    step_size: float = 0.5,
) -> Model:
    """A network that `nnUNetv2_cafr export` wrote, by its file or the name that it is installed by.

    Args:
        runtime: `openvino` or `onnx`.
        precision: `float32` or `bf16`, the latter by openvino on CPUs that have it.
        threads: of the CPU; None for all of torch's.
        mirroring: predicts mirrored images too, along the axes of training; slower, more accurate.
        step_size: of the sliding window, in patches.

    Raises:
        ValueError: if the network or its description is missing or damaged, or the runtime computes something else.

    Examples:
        >>> from nnunetv2_cafr import load_model
        >>> model = load_model("model.onnx")  # doctest: +SKIP
        >>> prediction = model.predict("scan.nii.gz", levels=True)  # doctest: +SKIP
        >>> prediction.measure().levels[0].name  # doctest: +SKIP
        'L5'
    """
    path = find_model(model)
    try:
        return prepare(
            path,
            Description.read(path),
            runtime=runtime,
            precision=precision,
            threads=threads,
            mirroring=mirroring,
            step_size=step_size,
        )
    except UserError as error:  # which would end the caller's program
        raise ValueError(str(error)) from error


def prepare(
    path: Path,
    description: Description,
    *,
    runtime: str,
    precision: str,
    threads: int | None,
    mirroring: bool,
    step_size: float,
) -> Model:
    """The network of `path` in its runtime; arguments and what is raised are `load_network`'s and `load_model`'s."""
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    shape = (len(description.channel_names), *description.configuration.patch_size)
    network = load_network(path, runtime, precision, description.content["probe"], shape, threads)
    return Model(description, network, description.mirroring_axes if mirroring else (), step_size)


def _file_of(image: Image, spacing: Sequence[float] | None, voxel_order: str | None, new: Path) -> Path:
    """Where an image lies; one that lies nowhere is written to `new`."""
    if isinstance(image, np.ndarray):
        image = _image_of(image, spacing, voxel_order)
    elif spacing is not None or voxel_order is not None:
        raise ValueError("spacing and voxel_order are an array's; an image or a file has its own")
    if not isinstance(image, sitk.Image):
        return Path(image)
    # Without a NIfTI header's fields, of which MetaImage warns.
    is_vector = image.GetNumberOfComponentsPerPixel() > 1
    plain = sitk.GetImageFromArray(sitk.GetArrayViewFromImage(image), isVector=is_vector)
    plain.CopyInformation(image)
    sitk.WriteImage(plain, new)
    return new


def _image_of(array: np.ndarray, spacing: Sequence[float] | None, voxel_order: str | None) -> sitk.Image:
    """A volume that lies in the patient as `voxel_order` says."""
    if array.ndim != 3 or spacing is None or len(spacing) != 3 or voxel_order is None:
        raise ValueError(
            f"an array of shape {array.shape}, spacing {spacing}, voxel_order {voxel_order}; expected are (z, y, x), "
            "three distances in mm, and three letters such as PIR: without them nobody knows where up is"
        )
    if not all(step > 0 for step in spacing):
        raise ValueError(f"spacing {spacing}; expected three distances in mm, larger than 0")
    if isinstance(array, np.ma.MaskedArray) or array.dtype.kind not in "iuf" or not array.size:
        raise ValueError(
            f"{type(array).__name__} of {array.dtype}, shape {array.shape}; expected numbers, without a mask"
        )
    if not is_order(voxel_order):
        raise ValueError(f"voxel_order is {voxel_order!r}; expected three letters such as PIR, one of each axis")
    real = np.float64 if array.dtype.itemsize > 4 else np.float32
    image = sitk.GetImageFromArray(array.astype(real if array.dtype.kind == "f" else array.dtype.newbyteorder("=")))
    image.SetSpacing([float(step) for step in reversed(spacing)])
    image.SetDirection(sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(voxel_order))
    return image


def predict_labels(model: Model, study: Study, levels: LevelDecoder | None = None) -> tuple[np.ndarray, dict]:
    """Label map (z, y, x) in the network's voxel order, and what nnU-Net's reader keeps of the study's own grid.

    `levels` sees the logits on their way.
    """
    description = model.description
    plans, configuration = description.plans, description.configuration
    image, properties = preprocess(study, description)
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    # a 2-D configuration leaves the distance between slices as it is
    current_spacing = [*spacing[: 3 - len(configuration.spacing)], *configuration.spacing]
    shape = properties["shape_after_cropping_and_before_resampling"]
    patch_size = configuration.patch_size

    labelled = []
    slabs = predict_logits(torch.from_numpy(image), model.network, patch_size, model.mirroring_axes, model.step_size)
    for logits in slabs:
        of_slab = (1, *shape[1:]) if len(patch_size) == 2 else tuple(shape)
        labelled.append(label_map(logits, of_slab, current_spacing, spacing, configuration, description.labels))
        if levels:
            levels.see(logits, labelled[-1])
    cropped = torch.cat(labelled).numpy()
    segmentation = np.zeros(properties["shape_before_cropping"], np.uint8 if cropped.dtype == np.uint8 else np.uint16)
    segmentation[bounding_box_to_slice(properties["bbox_used_for_cropping"])] = cropped
    return segmentation.transpose(plans.transpose_backward), properties
