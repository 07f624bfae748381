"""Resampling class by class gives the labels of nnU-Net, which resamples all classes at once."""

import itertools

import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_cafr.deployment.labelling import label_map, resample

from .untrained import LABELS, REGIONS, configuration

THICK, ISOTROPIC = (4.0, 1.0, 1.0), (1.0, 1.0, 1.0)
SHAPES = {
    "in plane": ((5, 12, 14), (5, 31, 25)),
    "to a coarser grid": ((5, 33, 31), (5, 14, 15)),
    "all axes": ((5, 12, 14), (9, 21, 13)),
    "to fewer slices": ((9, 12, 14), (4, 21, 13)),
    "one slice": ((1, 12, 14), (1, 21, 13)),
    "not at all": ((5, 12, 14), (5, 12, 14)),
}


@pytest.mark.parametrize("order", [1, 0, 3])
@pytest.mark.parametrize(("spacing", "axis"), [(THICK, 0), (THICK, 1), (THICK, 2), (ISOTROPIC, 0)])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_resampled_as_by_nnunet(shapes, spacing, axis, order):
    old, new = ([shape[(i - axis) % 3] for i in range(3)] for shape in shapes)
    spacing = np.roll(spacing, axis).tolist()
    new_spacing = [step * n / m for step, n, m in zip(spacing, old, new, strict=True)]
    settings = ConfigurationManager(configuration(2, 1, order))
    logits = 10 * torch.randn(3, *old).half()
    expected = settings.resampling_fn_probabilities(logits.numpy(), new, spacing, new_spacing)
    for head, of_head in enumerate(logits):
        found = resample(of_head, new, spacing, new_spacing, settings)
        assert found.dtype == torch.half
        # Values that lie halfway between two of float16 may be rounded either way.
        np.testing.assert_array_max_ulp(found.numpy(), expected[head], maxulp=1)
        assert (found.numpy() == expected[head]).mean() > 0.97


@pytest.mark.parametrize("regions", [False, True])
def test_labels_as_by_nnunet(regions):
    settings = ConfigurationManager(configuration(2, 1))
    dataset_json = {"labels": REGIONS if regions else LABELS, "regions_class_order": [3, 1, 2] if regions else None}
    labels = PlansManager({"label_manager": "LabelManager"}).get_label_manager(dataset_json)
    # few values, so that many logits are equal or zero
    logits = torch.randint(-2, 3, (3 if regions else 4, 5, 20, 22)).half()
    shape, new_spacing = (5, 40, 44), (4.0, 0.5, 0.5)
    resampled = settings.resampling_fn_probabilities(logits.numpy(), shape, THICK, new_spacing)
    expected = labels.convert_logits_to_segmentation(resampled)
    found = label_map(logits, shape, THICK, new_spacing, settings, labels)
    np.testing.assert_array_equal(found.numpy(), expected)
    slices = [label_map(one[:, None], (1, 40, 44), THICK, new_spacing, settings, labels) for one in logits.unbind(1)]
    np.testing.assert_array_equal(torch.cat(slices), found)


def test_many_labels():
    count = 300
    dataset_json = {"labels": {"background": 0, **{f"{label}": label for label in range(1, count)}}}
    labels = PlansManager({"label_manager": "LabelManager"}).get_label_manager(dataset_json)
    settings = ConfigurationManager(configuration(2, 1))
    logits = torch.zeros(count, 1, 10, 30)
    for label, (row, column) in enumerate(itertools.product(range(10), range(30))):
        logits[label, 0, row, column] = 1
    found = label_map(logits.half(), (1, 10, 30), THICK, THICK, settings, labels)
    np.testing.assert_array_equal(found.flatten(), np.arange(count))
