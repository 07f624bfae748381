"""Trained models as nnU-Net leaves them, but with random weights, and images that need all of its preprocessing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_cafr.voxel_order import REORIENTING_READERS

from ..verbs import run_verb

LABELS = {"background": 0, "a": 1, "b": 2, "c": 3}
REGIONS = {"background": 0, "all": [1, 2, 3], "inner": [2, 3], "core": 3}
MIRRORING_AXES = {"2d": (1,), "3d_fullres": (0, 2)}


def resampling(order: int) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, is_seg, its_order in (("data", False, 3), ("seg", True, 1), ("probabilities", False, order)):
        settings[f"resampling_fn_{name}"] = "resample_data_or_seg_to_shape"
        settings[f"resampling_fn_{name}_kwargs"] = {
            "is_seg": is_seg, "order": its_order, "order_z": 0, "force_separate_z": None
        }  # fmt: skip
    return settings


def configuration(dimensions: int, channels: int, order: int = 1) -> dict[str, Any]:
    """A configuration of nnU-Net's plans with a small PlainConvUNet."""
    kernels, strides = [[3] * dimensions] * 3, [[1] * dimensions, [2] * dimensions, [2] * dimensions]
    return {
        "data_identifier": f"nnUNetPlans_{dimensions}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [56, 40] if dimensions == 2 else [8, 16, 16],
        "spacing": [1.0, 1.1] if dimensions == 2 else [3.0, 1.5, 1.5],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [True] * channels,
        "batch_dice": True,
        **resampling(order),
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [8, 16, 16],
                "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                "kernel_sizes": kernels,
                "strides": strides,
                "n_conv_per_stage": [1, 1, 1],
                "n_conv_per_stage_decoder": [1, 1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


def write_image(path: Path, seed: int, size: tuple[int, int, int] = (9, 58, 47)) -> None:
    """A thick-sliced image (z, y, x) with a border of zeros, which nnU-Net crops off."""
    generator = np.random.default_rng(seed)
    voxels = np.zeros(size, np.float32)
    coarse = sitk.GetImageFromArray(generator.standard_normal((5, 8, 8)).astype(np.float32))
    inner = (size[2] - 6, size[1] - 9, size[0] - 1)
    ratio = [from_ / to for from_, to in zip(coarse.GetSize(), inner, strict=True)]
    smooth = sitk.Resample(coarse, inner, sitk.Transform(), sitk.sitkLinear, (0, 0, 0), [0.9 * r for r in ratio])
    noise = 0.1 * generator.standard_normal(inner[::-1])
    voxels[1:, 5:-4, 4:-2] = 300 + 80 * (sitk.GetArrayFromImage(smooth) + noise)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 0.8, 4.4))
    image.SetOrigin((3.5, -20.25, 7))
    image.SetDirection((0, 0, -1, 1, 0, 0, 0, -1, 0))
    sitk.WriteImage(image, path)


@dataclass(frozen=True)
class Models:
    """nnU-Net's folders with models that were never trained."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    def folder(self, dataset: str, trainer: str, name: str) -> Path:
        return self.root / "results" / dataset / f"{trainer}__nnUNetPlans__{name}"

    def make(
        self,
        dataset: str,
        trainer: str,
        name: str,
        folds: int = 1,
        order: int = 1,
        regions: bool = False,
        channels: int = 1,
        reader: str = "SimpleITKIO",
    ) -> Path:
        """A results folder of `trainer` with random weights in each fold."""
        folder = self.folder(dataset, trainer, name)
        settings = configuration(2 if name == "2d" else 3, channels, order)
        axes = [2, 1, 0] if reader in REORIENTING_READERS else [0, 2, 1]  # slices are sagittal
        plans = {
            "dataset_name": dataset,
            "plans_name": "nnUNetPlans",
            "image_reader_writer": reader,
            "label_manager": "LabelManager",
            "transpose_forward": axes,
            "transpose_backward": axes,
            "foreground_intensity_properties_per_channel": {str(channel): {} for channel in range(channels)},
            "configurations": {name: settings},
        }
        dataset_json = {
            "channel_names": {str(channel): f"T{channel + 1}" for channel in range(channels)},
            "labels": REGIONS if regions else LABELS,
            "file_ending": ".nii.gz",
            **({"regions_class_order": [1, 2, 3]} if regions else {}),
        }
        manager = PlansManager(plans)
        for fold in range(folds):
            torch.manual_seed(fold)
            network = recursive_find_trainer_class_by_name(trainer).build_network_architecture(
                manager, manager.get_configuration(name), channels, 3 if regions else 4, enable_deep_supervision=False
            )
            for tap in getattr(
                network, "taps", ()
            ):  # which begin at 0, so that nothing would be seen of what they read
                torch.nn.init.ones_(tap.to_level[-1].weight)
            checkpoint = {
                "network_weights": network.state_dict(),
                "trainer_name": trainer,
                "init_args": {"configuration": name},
                "inference_allowed_mirroring_axes": MIRRORING_AXES[name],
            }
            (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
            torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
        save_json(plans, str(folder / "plans.json"), sort_keys=False)
        save_json(dataset_json, str(folder / "dataset.json"), sort_keys=False)
        return folder

    def export(self, folder: Path, target: Path, folds: int = 1) -> Path:
        trainer, plans, name = folder.name.split("__")
        status = run_verb(
            "export",
            "-d",
            folder.parent.name,
            "-c",
            name,
            "-tr",
            trainer,
            "-p",
            plans,
            "-f",
            *range(folds),
            "-o",
            target,
        )
        assert status == 0
        return target


def nnunet_predictor(folder: Path, folds: int = 1, use_mirroring: bool = True) -> nnUNetPredictor:
    predictor = nnUNetPredictor(use_mirroring=use_mirroring, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), tuple(range(folds)))
    return predictor


def nnunet_label_maps(predictor: nnUNetPredictor, cases: dict[str, list[Path]], out: Path) -> dict[str, sitk.Image]:
    """What nnU-Net predicts for the files of each case."""
    out.mkdir()
    files = [[str(file) for file in images] for images in cases.values()]
    predictor.predict_from_files_sequential(files, [str(out / name) for name in cases])
    return {name: sitk.ReadImage(out / f"{name}.nii.gz") for name in cases}
