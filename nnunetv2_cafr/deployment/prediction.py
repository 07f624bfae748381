"""Predicts studies one after the other by an exported network, and writes each label map when it is there."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice
from tqdm import tqdm

from nnunetv2_cafr.deployment.description import Description
from nnunetv2_cafr.deployment.label_maps import LabelMaps
from nnunetv2_cafr.deployment.labelling import label_map
from nnunetv2_cafr.deployment.level_decoding import LevelDecoder
from nnunetv2_cafr.deployment.orders import as_stored
from nnunetv2_cafr.deployment.runtime import Network, load_network
from nnunetv2_cafr.deployment.sliding_window import predict_logits
from nnunetv2_cafr.deployment.studies import Study, UnusableStudyError, preprocess
from nnunetv2_cafr.files import describe_failure


def load(arguments: argparse.Namespace, description: Description) -> Network:
    """The network of the command line, in its runtime and precision."""
    threads = arguments.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    shape = (len(description.channel_names), *description.configuration.patch_size)
    probe = description.content["probe"]
    return load_network(arguments.m, arguments.runtime, arguments.precision, probe, shape, threads)


def predict_all(
    todo: Sequence[Study],
    done: int,
    description: Description,
    network: Network,
    maps: LabelMaps,
    mirroring_axes: tuple[int, ...],
    step_size: float,
    levels: LevelDecoder | None = None,
) -> int:
    """Predicts and writes studies, and tells of those that failed; returns the exit status.

    Args:
        done: how many label maps were there before.

    Raises:
        SystemExit: if not even the folder of the label maps can be made.
    """
    try:
        maps.begin()
    except OSError as error:
        raise SystemExit(describe_failure(Path(error.filename or maps.folder), error)) from error
    failed: dict[str, str] = {}
    begun, full = 0, False
    for study in tqdm(todo, unit="study", initial=done, total=done + len(todo)):
        begun += 1
        try:
            segmentation, geometry = predict_study(study, description, network, mirroring_axes, step_size, levels)
            decoding = levels.decode(segmentation, geometry) if levels else None
            labels = decoding.labels if decoding else segmentation
            maps.write(study, as_stored(labels, geometry, description.voxel_order), geometry)
            if levels and decoding:
                levels.record.add(study.name, decoding)
        except UnusableStudyError as error:
            failed[study.name] = str(error)
        except Exception as error:
            failed[study.name] = f"{type(error).__name__}: {error}" if str(error) else repr(error)
            full = maps.is_full(error)
        for note in study.notes:
            tqdm.write(f"Note on {study.name}: {note}")
        if study.name in failed:
            tqdm.write(f"{study.name} failed")
        if full:
            break
    if levels:
        print(levels.record.summary([study.name for study in todo[:begun]]))
    if not failed:
        print(f"{len(todo)} label maps written to {maps.file or maps.folder}, {done} were there")
        return 0
    print(f"{len(failed)} of {len(todo)} studies failed, the others are in {maps.folder}:")
    for name, reason in failed.items():
        print(f"  {name}: " + reason.replace("\n", "\n  "))
    if begun < len(todo):
        print(f"The disk is full: {len(todo) - begun} studies were not begun. Add --continue_prediction to go on there")
    return 1


def predict_study(
    study: Study,
    description: Description,
    network: Network,
    mirroring_axes: tuple[int, ...],
    step_size: float,
    levels: LevelDecoder | None = None,
) -> tuple[np.ndarray, dict]:
    """Label map (z, y, x) in the network's voxel order, and what nnU-Net's reader keeps of the study's own grid.

    `levels` sees the logits on their way.
    """
    plans, configuration = description.plans, description.configuration
    image, properties = preprocess(study, description)
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    # a 2-D configuration leaves the distance between slices as it is
    current_spacing = [*spacing[: 3 - len(configuration.spacing)], *configuration.spacing]
    shape = properties["shape_after_cropping_and_before_resampling"]
    patch_size = configuration.patch_size

    labelled = []
    if levels:
        levels.start()
    for logits in predict_logits(torch.from_numpy(image), network, patch_size, mirroring_axes, step_size):
        of_slab = (1, *shape[1:]) if len(patch_size) == 2 else tuple(shape)
        labelled.append(label_map(logits, of_slab, current_spacing, spacing, configuration, description.labels))
        if levels:
            levels.see(logits, labelled[-1])
    cropped = torch.cat(labelled).numpy()
    segmentation = np.zeros(properties["shape_before_cropping"], np.uint8 if cropped.dtype == np.uint8 else np.uint16)
    segmentation[bounding_box_to_slice(properties["bbox_used_for_cropping"])] = cropped
    return segmentation.transpose(plans.transpose_backward), properties
