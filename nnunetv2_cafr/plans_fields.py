"""Checks plans.json and dataset.json field by field before anything relies on them, and reports all problems at once.

nnU-Net trusts them: a missing field, or one of another type, becomes a KeyError or TypeError somewhere later; a wrong
value may pass unnoticed. Needs neither torch nor nnU-Net, so that a command can answer at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from nnunetv2_cafr.spine import values_of

AXES = [0, 1, 2]
RESAMPLING = ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")


def channels_of(description: Mapping[str, Any]) -> Any:
    """Names of the channels in the content of a dataset.json, also of nnU-Net v1's; None without any."""
    return description.get("channel_names", description.get("modality"))


def faults_of(plans: Any, configuration: str, dataset_json: Any) -> Iterator[str]:
    """What is wrong with the contents of plans.json, for one configuration, and of dataset.json; a line each."""
    yield from description_faults(dataset_json)
    if not isinstance(plans, Mapping):
        yield f"the plans are {_kind(plans)}; expected an object"
        return
    for key in ("dataset_name", "plans_name", "image_reader_writer"):
        if not isinstance(plans.get(key), str) or not plans[key]:
            yield f"{key} is {plans.get(key)!r}; expected a name"
    if not isinstance(plans.get("label_manager", "LabelManager"), str):
        yield f"label_manager is {plans['label_manager']!r}; expected the name of a class"
    forward: Any = plans.get("transpose_forward")
    backward: Any = plans.get("transpose_backward")
    for key, order in (("transpose_forward", forward), ("transpose_backward", backward)):
        if not _is_permutation(order):
            yield f"{key} is {order!r}; expected the axes 0, 1 and 2 in some order"
    if _is_permutation(forward) and _is_permutation(backward) and [forward[axis] for axis in backward] != AXES:
        yield f"transpose_backward is {backward}; expected the way back from transpose_forward, {forward}"
    if not isinstance(
        plans.get(
            "foreground_intensity_properties_per_channel", plans.get("foreground_intensity_properties_by_modality")
        ),
        Mapping,
    ):
        yield "foreground_intensity_properties_per_channel is no object; expected one entry for each channel"
    configurations = plans.get("configurations")
    if not isinstance(configurations, Mapping):
        yield f"configurations is {_kind(configurations)}; expected an object"
        return
    try:
        settings = resolved(configurations, configuration)
    except ValueError as error:
        yield str(error)
        return
    names = channels_of(dataset_json) if isinstance(dataset_json, Mapping) else None
    yield from _configuration_faults(settings, len(names) if isinstance(names, Mapping) and names else None)


def resolved(configurations: Mapping[str, Any], name: str, heirs: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration of plans with what it inherits.

    Args:
        heirs: those that inherit from it, for the message where it is one of them.

    Raises:
        ValueError: if it is not there, or inherits from nothing that is, or from itself.
    """
    own = configurations.get(name)
    if name in heirs:
        raise ValueError(f"inherits_from runs in a circle: {', '.join((*heirs, name))}; expected a parent of its own")
    if not isinstance(own, Mapping):
        there = ", ".join(map(str, configurations)) or "none"
        raise ValueError(f"there is no configuration {name!r}; the plans hold {there}")
    if "inherits_from" not in own:
        return dict(own)
    parent = own["inherits_from"]
    if not isinstance(parent, str):
        raise ValueError(f"inherits_from is {parent!r}; expected the name of a configuration")
    return {**resolved(configurations, parent, (*heirs, name)), **own}


def _configuration_faults(settings: Mapping[str, Any], channels: int | None) -> Iterator[str]:
    patch: Any = settings.get("patch_size")
    spacing: Any = settings.get("spacing")
    batch: Any = settings.get("batch_size")
    sound = isinstance(patch, list | tuple) and len(patch) in (2, 3) and all(map(_is_count, patch))
    if not sound:
        yield f"patch_size is {patch!r}; expected 2 or 3 whole numbers above 0"
    if not isinstance(spacing, list | tuple) or not all(map(_is_length, spacing)):
        yield f"spacing is {spacing!r}; expected numbers of mm above 0"
    elif sound and len(spacing) != len(patch):
        yield f"patch_size is {list(patch)} and spacing {list(spacing)}; expected as many numbers in both"
    if not _is_count(batch):
        yield f"batch_size is {batch!r}; expected a whole number above 0"
    for key, kind in (("normalization_schemes", str), ("use_mask_for_norm", bool)):
        value: Any = settings.get(key)
        fits = isinstance(value, list | tuple) and all(isinstance(one, kind) for one in value)
        if not fits or (channels is not None and len(value) != channels):
            yield f"{key} is {value!r}; expected one for each of {'the' if channels is None else channels} channels"
    for key in ("data_identifier", "preprocessor_name", *RESAMPLING):
        if not isinstance(settings.get(key), str) or not settings[key]:
            yield f"{key} is {settings.get(key)!r}; expected a name"
    for key in RESAMPLING:
        if not isinstance(settings.get(f"{key}_kwargs"), Mapping):
            yield f"{key}_kwargs is {settings.get(f'{key}_kwargs')!r}; expected an object"
    if not isinstance(settings.get("batch_dice"), bool):
        yield f"batch_dice is {settings.get('batch_dice')!r}; expected true or false"
    if "UNet_class_name" not in settings:  # as plans had it before they named an architecture
        yield from _architecture_faults(settings.get("architecture"))


def _architecture_faults(architecture: Any) -> Iterator[str]:
    if not isinstance(architecture, Mapping):
        yield f"architecture is {_kind(architecture)}; expected an object"
        return
    if not isinstance(architecture.get("network_class_name"), str):
        yield f"network_class_name is {architecture.get('network_class_name')!r}; expected the name of a class"
    if not isinstance(architecture.get("arch_kwargs"), Mapping):
        yield f"arch_kwargs is {_kind(architecture.get('arch_kwargs'))}; expected an object"
    imported = architecture.get("_kw_requires_import")
    if not isinstance(imported, list | tuple) or not all(isinstance(name, str) for name in imported):
        yield f"_kw_requires_import is {imported!r}; expected a list of names"


def description_faults(description: Any) -> Iterator[str]:
    """What is wrong with the content of dataset.json; a line each."""
    if not isinstance(description, Mapping):
        yield f"dataset.json holds {_kind(description)}; expected an object"
        return
    ending = description.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith(".") or "/" in ending:
        yield f"file_ending is {ending!r}; expected an ending such as .nii.gz, with its dot"
    labels = description.get("labels")
    if not isinstance(labels, Mapping) or "background" not in labels:
        yield f"labels is {labels!r}; expected an object with background and at least one structure"
    elif wrong := {name: value for name, value in labels.items() if not _is_label(value)}:
        yield f"labels hold {wrong}; expected whole numbers, 0 or more, or lists of them"
    order = description.get("regions_class_order")
    if order is not None and not (isinstance(order, list | tuple) and all(map(_is_label_value, order))):
        yield f"regions_class_order is {order!r}; expected a list of labels"
    channels = channels_of(description)
    if not isinstance(channels, Mapping) or not channels:
        yield f"channel_names is {channels!r}; expected a name for each channel"
    elif odd := [name for name in channels.values() if not isinstance(name, str)]:
        yield f"channel_names hold {odd}; expected names"


def _kind(value: Any) -> str:
    return "not there" if value is None else f"a {type(value).__name__}"


def _is_permutation(order: Any) -> bool:
    return isinstance(order, list | tuple) and all(map(_is_value, order)) and sorted(order) == AXES


def _is_label(value: Any) -> bool:
    values = values_of(value)
    return bool(values) and all(map(_is_label_value, values))


def _is_label_value(value: Any) -> bool:
    """nnU-Net takes "1" and 1.0 for 1 as well."""
    whole = isinstance(value, float) and value >= 0 and value.is_integer()
    return whole or _is_value(value) or (isinstance(value, str) and value.isdecimal())


def _is_value(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_count(value: Any) -> bool:
    return _is_value(value) and value > 0


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
