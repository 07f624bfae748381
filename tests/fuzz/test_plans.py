"""Plans and dataset.json of a trained and of an exported network: nnU-Net makes all of them, or they are refused."""

import contextlib
import functools
import hashlib
import io
import json
import os
import tempfile
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_cafr.deployment.description import FORMAT, Description, description_file
from nnunetv2_cafr.errors import UserError

from .datasets import GONE, JSON, SCALARS, some_fields
from .harness import TARGETS, fuzz

DATASET = {
    "labels": {"background": 0, "L5": 1},
    "channel_names": {"0": "T2"},
    "file_ending": ".nii.gz",
    "numTraining": 5,
}
RESAMPLING = {
    f"resampling_fn_{name}{suffix}": value
    for name in ("data", "seg", "probabilities")
    for suffix, value in (
        ("", "resample_data_or_seg_to_shape"),
        ("_kwargs", {"is_seg": name == "seg", "order": 1, "order_z": 0, "force_separate_z": None}),
    )
}
SETTINGS = {
    "data_identifier": "nnUNetPlans_2d",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [32, 32],
    "spacing": [1.0, 1.0],
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
    "batch_dice": True,
    **RESAMPLING,
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3], [3, 3]],
            "strides": [[1, 1], [2, 2]],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
}
PLANS = {
    "dataset_name": "Dataset042_Tiny",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "label_manager": "LabelManager",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0, "std": 1.0}},
    "configurations": {"2d": SETTINGS},
}
DESCRIPTION = {
    "format": FORMAT,
    "configuration": "2d",
    "channel_names": {"0": "T2"},
    "inference_allowed_mirroring_axes": [1],
    "voxel_order": "PIR",
    "training_voxel_orders": {"PIR": 5},
    "training_heights": [250, 300.5],
    "probe": [0.5, 1.0],
    "plans": PLANS,
    "dataset_json": DATASET,
}


def _places(content: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every field of nested objects, as the keys that lead to it."""
    found = []
    for key, value in content.items():
        found.append((*above, key))
        if isinstance(value, dict) and key not in ("labels", "channel_names"):
            found += _places(value, (*above, key))
    return found


def _changes(content: dict[str, Any]) -> st.SearchStrategy[list[tuple[tuple[str, ...], Any]]]:
    """One or two fields, anywhere, and what they are instead."""
    value = st.just(GONE) | SCALARS | JSON | st.lists(st.integers(-1, 70) | SCALARS, max_size=4)
    return st.lists(st.tuples(st.sampled_from(_places(content)), value), min_size=1, max_size=2)


def _changed(content: dict[str, Any], changes: list[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    content = deepcopy(content)
    for (*above, key), value in changes:
        place: Any = content
        for step in above:
            place = place.get(step) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(key, None)
            if value != GONE:
                place[key] = value
    return json.loads(json.dumps(content))


@functools.cache
def _trainer_class() -> type:
    return recursive_find_trainer_class_by_name("nnUNetTrainer_LevelSafe")


def _description(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**DATASET, **fields}.items() if value != GONE}


@fuzz(100, changes=_changes(DESCRIPTION), fields=st.just({}) | some_fields())
def test_export(changes: list[tuple[tuple[str, ...], Any]], fields: dict[str, Any]) -> str:
    """The description of an exported network: all that prediction asks of it is there and fits, or it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        model.write_bytes(b"a network")
        content = _changed({**DESCRIPTION, "dataset_json": _description(fields)}, changes)
        file = description_file(model)
        file.write_text(json.dumps({"sha256": hashlib.sha256(b"a network").hexdigest(), **content}))
        try:
            found = Description.read(model)
        except UserError as refusal:
            assert file.name in str(refusal)
            return "refused"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = found.configuration
        assert len(settings.spacing) == len(settings.patch_size) in (2, 3)
        assert len(found.channel_names) == len(settings.normalization_schemes) == len(settings.use_mask_for_norm)
        assert sorted(found.plans.transpose_forward) == sorted(found.plans.transpose_backward) == [0, 1, 2]
        assert found.file_ending and isinstance(found.reads_volumes, bool) and isinstance(found.flat, bool)
        assert found.mirroring_axes is not None and isinstance(found.training_voxel_orders, dict)
        assert found.training_heights is None or min(found.training_heights) > 0
        return "read"


@fuzz(25, changes=_changes(PLANS), fields=st.just({}) | some_fields())
def test_training(changes: list[tuple[tuple[str, ...], Any]], fields: dict[str, Any]) -> str:
    """A trainer over plans and dataset.json: it is made and initialised, or they are refused by name."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(Path(folder) / name)
        data = Path(folder) / "preprocessed" / "Dataset042_Tiny" / "nnUNetPlans_2d"
        data.mkdir(parents=True)
        (data / "c0.b2nd").touch()  # what nnU-Net tells its kind of files by
        plans = {**_changed(PLANS, changes), "continue_training": False}
        try:
            _trainer_class()(plans, "2d", 0, _description(fields), torch.device("cpu")).initialize()
        except UserError as refusal:
            assert ".json and its dataset.json" in str(refusal), refusal
            return "refused"
        return "made"


def test_found_in_plans() -> None:
    """Layers that no memory holds, of which torch makes a RuntimeError."""
    place = ("configurations", "2d", "architecture", "arch_kwargs")
    for name, value in (("strides", 10**12), ("features_per_stage", [10**12, 66])):
        assert TARGETS["test_training"].check(changes=[((*place, name), value)], fields={}) == "refused"


def test_sound_plans() -> None:
    """What the targets change is sound by itself."""
    assert TARGETS["test_export"].check(changes=[], fields={}) == "read"
    assert TARGETS["test_training"].check(changes=[], fields={}) == "made"
