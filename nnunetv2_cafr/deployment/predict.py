"""`nnUNetv2_cafr predict`: label maps from an exported network, the same as nnUNetv2_predict's, in less time.

Images are NIfTI, MetaImage or NRRD files, or folders with one DICOM series each. Reading, preprocessing, sliding
window, mirroring and the way back to the image's grid are nnU-Net's; trainers, checkpoints and PyTorch's networks are
not needed. A study that fails does not stop the others: it is listed at the end, and the exit status is 1.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice
from tqdm import tqdm

from nnunetv2_cafr.deployment.description import Description
from nnunetv2_cafr.deployment.labelling import label_map
from nnunetv2_cafr.deployment.level_decoding import LevelDecoder
from nnunetv2_cafr.deployment.runtime import PRECISIONS, RUNTIMES, Network, load_network
from nnunetv2_cafr.deployment.sliding_window import predict_logits
from nnunetv2_cafr.deployment.studies import Study, find_studies, preprocess

EXAMPLES = """examples:
  nnUNetv2_cafr predict -m model.onnx -i imagesTs -o predictions
  nnUNetv2_cafr predict -m model.onnx -i imagesTs -o predictions --levels
  nnUNetv2_cafr predict -m model.onnx -i scan.mha dicom_folder -o predictions --precision bf16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", type=Path, required=True, metavar="FILE", help="the network, by nnUNetv2_cafr export")
    parser.add_argument(
        "-i", type=Path, required=True, nargs="+", metavar="PATH", help="images, or folders of images or DICOM series"
    )
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where the label maps go")
    parser.add_argument("--runtime", choices=RUNTIMES, default="openvino", help="default openvino")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="default float32; bf16 by openvino")
    parser.add_argument("--disable_tta", action="store_true", help="no mirroring; faster, less accurate")
    parser.add_argument("-step_size", type=float, default=0.5, help="of the sliding window, in patches (default 0.5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="default all")
    parser.add_argument(
        "--levels", action="store_true", help="consistent spine levels, see nnUNetv2_cafr relabel --help"
    )
    parser.add_argument("--continue_prediction", action="store_true", help="skip studies whose label map is there")


def run(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.step_size <= 1 or arguments.threads < 1:
        raise SystemExit(
            f"-step_size {arguments.step_size:g} --threads {arguments.threads}: expected 0 to 1, and 1 or more"
        )
    description = Description.read(arguments.m)
    levels = LevelDecoder(arguments.o, arguments.m, description) if arguments.levels else None
    studies = find_studies(arguments.i, description)
    ending = description.dataset_json["file_ending"]
    todo = [
        study
        for study in studies
        if not (arguments.continue_prediction and (arguments.o / f"{study.name}{ending}").exists())
    ]
    torch.set_num_threads(arguments.threads)
    network = load_network(
        arguments.m,
        arguments.runtime,
        arguments.precision,
        description.content["probe"],
        (len(description.channel_names), *description.configuration.patch_size),
        arguments.threads,
    )
    arguments.o.mkdir(parents=True, exist_ok=True)
    for name in ("dataset_json", "plans"):  # where nnUNetv2_predict leaves them, for evaluation and postprocessing
        file = arguments.o / f"{name.removesuffix('_json')}.json"
        file.write_text(json.dumps(description.content[name], indent=4), encoding="utf-8")

    failed = {}
    for study in tqdm(todo, unit="study", initial=len(studies) - len(todo), total=len(studies)):
        try:
            mirroring_axes = () if arguments.disable_tta else description.mirroring_axes
            segmentation, geometry = predict_study(
                study, description, network, mirroring_axes, arguments.step_size, levels
            )
            decoding = None
            if levels:
                decoding = levels.decode(segmentation, geometry)
                segmentation = decoding.labels
            write_atomically(arguments.o / f"{study.name}{ending}", segmentation, geometry, description)
            if levels and decoding:
                levels.record.add(study.name, decoding)
        except Exception as error:
            failed[study.name] = f"{type(error).__name__}: {error}" if str(error) else repr(error)
            tqdm.write(f"{study.name} failed")
    if levels:
        print(levels.record.summary([study.name for study in todo]))
    if failed:
        print(f"{len(failed)} of {len(todo)} studies failed, the others are in {arguments.o}:")
        print("\n".join(f"  {name}: {reason}" for name, reason in failed.items()))
        return 1
    print(f"{len(todo)} label maps written to {arguments.o}, {len(studies) - len(todo)} were there")
    return 0


def predict_study(
    study: Study,
    description: Description,
    network: Network,
    mirroring_axes: tuple[int, ...],
    step_size: float,
    levels: LevelDecoder | None = None,
) -> tuple[np.ndarray, dict]:
    """Label map (z, y, x) on the grid of the study's image, and what nnU-Net's writers need to know of that grid.

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


def write_atomically(target: Path, segmentation: np.ndarray, properties: dict, description: Description) -> None:
    """Writes a label map under another name first: what has its name is whole, also after a kill or on a full disk."""
    ending = description.dataset_json["file_ending"]
    partial = target.with_name(f".{target.name.removesuffix(ending)}.partial{ending}")
    try:
        description.plans.image_reader_writer_class().write_seg(segmentation, str(partial), properties)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
