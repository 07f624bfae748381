"""From checkpoints to an ONNX program and its description: load the folds, join them, export, compare with PyTorch."""

import contextlib
import copy
import hashlib
import importlib.metadata
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from torch import nn
from torch.nn import functional as F

from nnunetv2_cafr.deployment.description import FORMAT, Description, description_file
from nnunetv2_cafr.deployment.orders import order_to_predict_in
from nnunetv2_cafr.deployment.runtime import AXES, import_extra, probe_patch, probe_values
from nnunetv2_cafr.deployment.studies import UnusableStudyError, find_studies, preprocess
from nnunetv2_cafr.deployment.training_cases import cases_of_training, heights_of, orders_of, spacing_range
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.files import check_place, json_or_none, sha256
from nnunetv2_cafr.network.convolution import crop_to
from nnunetv2_cafr.plans_fields import channels_of
from nnunetv2_cafr.training.checkpoints import OF_PREDICTION, read_checkpoint

TOLERANCE = 1e-4  # largest error that may come from the order of sums, as a share of the largest logit; ours
CASES_COMPARED = 2
BYTES_PER_FILE = 2**31 - 1  # of ONNX


class Ensemble(nn.Module):
    """Mean of the logits of networks, for inputs (b, c, *spatial) of any size.

    Zero-pads at the far ends to multiples of `multiple` and crops back, without asking whether it is needed:
    torch.export follows one branch only, and would keep to the sizes that take it.
    """

    def __init__(self, networks: Sequence[nn.Module], multiple: Sequence[int]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.multiple = tuple(multiple)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spatial = x.shape[2:]
        whole = [
            (size + multiple - 1) // multiple * multiple for size, multiple in zip(spatial, self.multiple, strict=True)
        ]
        x = F.pad(x, [padding for multiple in reversed(self.multiple) for padding in (0, multiple - 1)])
        x = crop_to(x, whole)
        logits = self.networks[0](x)
        for network in self.networks[1:]:
            logits = logits + network(x)
        return crop_to(logits / len(self.networks), spatial)


@dataclass(frozen=True)
class Comparison:
    """How far ONNX Runtime's logits are from PyTorch's, and in what share of pixels the label is the same."""

    source: str
    max_error: float
    max_logit: float
    same_label: float

    def __str__(self) -> str:
        return (
            f"Compared with PyTorch on {self.source}: error of logits at most {self.max_error:.2g}, of logits up to "
            f"{self.max_logit:.3g}; the same label in {self.same_label:.4%} of pixels"
        )


def refuse_foreign(target: Path) -> None:
    """Makes sure that nothing but an earlier export is overwritten.

    Raises:
        ValueError: if `target` is no name for an ONNX file.
        OSError: if it or its JSON file is there and not of an export, or nothing can be written there.
    """
    if target.suffix != ".onnx":
        raise ValueError(f"-o {target}: expected a file name that ends in .onnx")
    check_place(target)
    description = description_file(target)
    there = [path for path in (target, description) if os.path.lexists(path)]
    if there and (target.is_symlink() or description.is_symlink() or _earlier_export(target) is None):
        raise FileExistsError(
            f"{there[0]} is there and is no export of nnUNetv2_cafr: move it away, or choose another name"
        )


def refuse_another(target: Path, description: Description) -> None:
    """Makes sure that an export is only replaced by one of the same training.

    Raises:
        FileExistsError: if `target` is the export of another one; says which.
    """
    keys = ("dataset", "configuration", "plans_name", "trainer", "folds", "checkpoint")
    earlier, new = _earlier_export(target), description.content
    if earlier is not None and (differs := [key for key in keys if earlier.get(key) != new[key]]):
        of = ", ".join(f"{key} {earlier.get(key)} (not {new[key]})" for key in differs)
        raise FileExistsError(f"{target} is the export of another training: {of}. Choose another name, or move it away")


def _earlier_export(target: Path) -> dict[str, Any] | None:
    """What the JSON file of an export says, if `target` is one: the network is the one it describes, or not there."""
    content = json_or_none(description_file(target))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    whole = target.is_file() and sha256(target) == content.get("sha256")
    return content if whole or not target.exists() else None


def load_folds(folder: Path, folds: Sequence[str], checkpoint_name: str) -> nnUNetPredictor:
    """nnU-Net's predictor with the weights of these folds, from checkpoints that hold nothing but values.

    Raises:
        ValueError: if there is no trained model, a fold is missing, a checkpoint is damaged, holds code or is none of
            nnU-Net's, or the network reads the prediction of another one.
        RuntimeError: if there is no such trainer, or the weights do not fit its network.
    """
    if not (folder / "plans.json").is_file():
        raise ValueError(f"There is no trained model in {folder}: are -d, -c, -tr and -p those of its training?")
    checkpoints = [folder / f"fold_{fold}" / checkpoint_name for fold in folds]
    if missing := [checkpoint for checkpoint in checkpoints if not checkpoint.is_file()]:
        raise ValueError(f"There is no {', no '.join(map(str, missing))}. {_trained(folder, checkpoint_name)}")
    for checkpoint in checkpoints:
        read_checkpoint(checkpoint, OF_PREDICTION)
    with silent():  # it tells of the device, and where it looks for the trainer
        predictor = nnUNetPredictor(device=torch.device("cpu"))
        predictor.initialize_from_trained_model_folder(str(folder), list(folds), checkpoint_name)
    if predictor.configuration_manager.previous_stage_name is not None:
        raise ValueError(f"{folder} holds the second stage of a cascade; only networks that read images are exported")
    return predictor


def _trained(folder: Path, checkpoint_name: str) -> str:
    """What there is to export, in words."""
    there = {place.name.removeprefix("fold_"): place for place in sorted(folder.glob("fold_*")) if place.is_dir()}
    if with_it := [fold for fold, place in there.items() if (place / checkpoint_name).is_file()]:
        return f"It is there for -f {' '.join(with_it)}"
    names = {fold: [file.name for file in sorted(place.glob("checkpoint_*.pth"))] for fold, place in there.items()}
    others = [f"-f {fold} -chk {name}" for fold in names for name in names[fold]]
    return f"There are: {', '.join(others)}" if others else "No fold has a checkpoint yet: train first"


def describe(
    predictor: nnUNetPredictor,
    folder: Path,
    configuration: str,
    folds: Sequence[str],
    checkpoint: str,
    card: dict[str, Any] | None,
) -> Description:
    """All that the JSON file says about the network, its training cases and its card, but for the export itself.

    Args:
        folder: of the trained model.
    """
    plans, settings, dataset_json = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    packages = ("nnunetv2-cafr", "nnunetv2", "torch", "onnx", "onnxscript", "onnxruntime")
    cases = cases_of_training(plans.plans, dataset_json, folder)
    counts, heights = orders_of(cases), heights_of(cases)
    content = {
        "format": FORMAT,
        "dataset": plans.dataset_name,
        "configuration": configuration,
        "plans_name": plans.plans_name,
        "trainer": predictor.trainer_name,
        "folds": list(folds),
        "checkpoint": checkpoint,
        "channel_names": channels_of(dataset_json),
        "labels": dataset_json["labels"],
        "regions_class_order": dataset_json.get("regions_class_order"),
        "patch_size": settings.patch_size,
        "spacing": settings.spacing,
        "normalization_schemes": settings.normalization_schemes,
        "inference_allowed_mirroring_axes": list(predictor.allowed_mirroring_axes or ()),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "plans": plans.plans,
        "dataset_json": dataset_json,
        "voxel_order": order_to_predict_in(plans.plans["image_reader_writer"], counts),
        "training_voxel_orders": counts,
        "training_spacing": spacing_range(Path(nnUNet_preprocessed.get() or "") / plans.dataset_name),
        "training_heights": heights and list(heights),
    }
    return Description({**content, "card": card} if card else content)


def export_network(predictor: nnUNetPredictor, description: Description) -> tuple[bytes, dict[str, Any], Comparison]:
    """Contents of the ONNX file and of the JSON file, and how the network compares with PyTorch.

    Raises:
        UserError: as `export_compared`.
    """
    volumes, source = load_samples(description)
    ensemble = ensemble_of(predictor)
    program, comparison, sizes = export_compared(ensemble, description, volumes, source)
    patch_size = description.configuration.patch_size
    axes = ", ".join(AXES[len(patch_size)])
    probe = probe_patch(len(description.channel_names), patch_size)
    content = {
        **description.content,
        "onnx": {
            "input": f"image (batch, channels, {axes}) float32, preprocessed by nnU-Net",
            "output": "logits (batch, heads, ...) of the same size, mean of the folds",
            "sizes": sizes,
        },
        "comparison_with_pytorch": vars(comparison),
        "probe": probe_values(logits_of(ensemble, probe)).tolist(),
        "sha256": hashlib.sha256(program).hexdigest(),
    }
    return program, content, comparison


def load_samples(description: Description) -> tuple[list[np.ndarray], str]:
    """A few preprocessed cases (c, d, h, w) of the data set, or raw ones, preprocessed here, or noise; and which."""
    dataset, settings = description.content["dataset"], description.configuration
    preprocessed = Path(nnUNet_preprocessed.get() or "") / dataset / settings.data_identifier
    images = Path(nnUNet_raw.get() or "") / dataset / "imagesTr"
    names: list[str] = []
    volumes: list[np.ndarray] = []
    if nnUNet_preprocessed.is_set() and preprocessed.is_dir() and any(preprocessed.iterdir()):
        cases = infer_dataset_class(str(preprocessed))(str(preprocessed))
        names = list(cases.identifiers)[:CASES_COMPARED]
        volumes = [np.asarray(cases.load_case(name)[0]) for name in names]
    elif nnUNet_raw.is_set() and images.is_dir() and any(images.iterdir()):
        for study in find_studies([images], description, notify=lambda text: None):
            with contextlib.suppress(UnusableStudyError):
                volumes.append(preprocess(study, description)[0])
                names.append(study.name)
            if len(names) == CASES_COMPARED:
                break
    if not volumes:
        depth = [1] * (3 - len(settings.patch_size))
        shape = (len(description.channel_names), *depth, *settings.patch_size)
        noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        return [noise], f"noise (no case of {dataset} is in nnUNet_preprocessed or nnUNet_raw)"
    return volumes, ", ".join(names)


def ensemble_of(predictor: nnUNetPredictor) -> Ensemble:
    networks = [copy.deepcopy(predictor.network) for _ in predictor.list_of_parameters]
    for network, parameters in zip(networks, predictor.list_of_parameters, strict=True):
        network.load_state_dict(parameters)
    return Ensemble(networks, size_multiple(predictor)).eval()


@torch.inference_mode()
def logits_of(ensemble: nn.Module, x: np.ndarray) -> np.ndarray:
    return ensemble(torch.from_numpy(x)).numpy()


def export_compared(
    ensemble: Ensemble, description: Description, volumes: Sequence[np.ndarray], source: str
) -> tuple[bytes, Comparison, str]:
    """The ONNX file's content, how it compares with PyTorch on these volumes, and in words the sizes that it takes.

    Raises:
        UserError: if the network cannot be exported, or computes something else in ONNX Runtime.
    """
    patch_size, multiple = list(description.configuration.patch_size), list(ensemble.multiple)
    attempts = (True, False) if getattr(ensemble.networks[0], "free_sizes", True) else (False,)
    for free in attempts:
        sizes = [patch_size]
        if free:
            sizes += [[size + 1 for size in patch_size], np.add(patch_size, multiple).tolist()]
        try:
            program = to_onnx(ensemble, len(volumes[0]), patch_size, free)
            comparison = compare(ensemble, program, volumes, sizes, source)
        except Exception as error:  # torch's exporter and ONNX Runtime have errors of many kinds
            if not free:
                raise UserError(f"Nothing was exported, this network cannot be: {error}") from error
            continue
        if comparison.max_error <= TOLERANCE * max(1.0, comparison.max_logit):
            return program, comparison, f"any, unpadded in multiples of {multiple}" if free else f"{patch_size} only"
    raise UserError(f"Nothing was exported, ONNX Runtime computes something else than PyTorch. {comparison}")


def size_multiple(predictor: nnUNetPredictor) -> list[int]:
    """What sizes must be multiples of: as the network itself pads them, else by the strides of the plans."""
    if (own := getattr(predictor.network, "size_multiple", None)) is not None:
        return list(own)
    return np.prod(predictor.configuration_manager.pool_op_kernel_sizes, axis=0).tolist()


def to_onnx(ensemble: nn.Module, channels: int, patch_size: Sequence[int], free: bool) -> bytes:
    """An ONNX file's content, for any batch size and, if `free`, any size of patches.

    Raises:
        ValueError: if it is larger than an ONNX file can be.
    """
    sizes = [size + 1 if free else size for size in patch_size]  # where padding and cropping have something to do
    axes = {0: "batch", **dict(enumerate(AXES[len(patch_size)], start=2))} if free else {0: "batch"}
    with silent():
        program = torch.onnx.export(
            ensemble,
            (torch.randn(2, channels, *sizes),),
            dynamo=True,
            dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in axes.items()},),
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    if (size := program.model_proto.ByteSize()) > BYTES_PER_FILE:
        raise ValueError(f"It has {size / 2**30:.1f} GB, an ONNX file holds 2: export fewer folds")
    return program.model_proto.SerializeToString()


def compare(
    ensemble: nn.Module, program: bytes, volumes: Sequence[np.ndarray], sizes: Sequence[Sequence[int]], source: str
) -> Comparison:
    """Compares an ONNX file with PyTorch on the middle of each volume, as one batch, in each of these sizes."""
    onnxruntime = import_extra("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is raised as well
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    errors, largest, same = [], [], []
    for size in sizes:
        x = np.stack([middle(volume, size) for volume in volumes])
        (found,) = session.run(None, {"image": x})
        expected = logits_of(ensemble, x)
        errors.append(float(np.abs(found - expected).max()))
        largest.append(float(np.abs(expected).max()))
        same.append(float((found.argmax(1) == expected.argmax(1)).mean()))
    return Comparison(source, max(errors), max(largest), min(same))


def middle(volume: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The middle patch (c, *size) of a volume (c, d, h, w), zero-padded where that is smaller."""
    if len(size) == 2:
        volume = volume[:, volume.shape[1] // 2]
    volume = pad_nd_image(volume, size, "constant", {"constant_values": 0})
    starts = [(length - wanted) // 2 for length, wanted in zip(volume.shape[1:], size, strict=True)]
    return volume[(slice(None), *(slice(start, start + n) for start, n in zip(starts, size, strict=True)))]


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keeps what nnU-Net and torch's exporter print, log and warn of for their own developers from the user."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
