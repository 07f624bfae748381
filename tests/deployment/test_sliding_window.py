"""The sums of the sliding window are nnU-Net's, bit by bit, given the same network."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunetv2_cafr.deployment.sliding_window import predict_logits

from .untrained import LABELS, configuration


class Lopsided(nn.Module):
    """Logits that change when the patch is mirrored or moved."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(-1, 1, x[0, 0].numel()).view(x.shape[2:])
        return torch.cat([x, x * ramp, x.square() + ramp, x.roll(1, -1) - ramp], dim=1)


@pytest.mark.parametrize("step_size", [0.5, 0.8])
@pytest.mark.parametrize("mirroring_axes", [(), (1,), (0, 1)])
@pytest.mark.parametrize(
    ("dimensions", "shape"), [(2, (3, 70, 47)), (2, (2, 20, 61)), (2, (1, 9, 9)), (3, (13, 20, 30)), (3, (5, 40, 16))]
)
def test_same_logits_as_nnunet(dimensions, shape, mirroring_axes, step_size):
    name = "2d" if dimensions == 2 else "3d_fullres"
    plans = PlansManager({"label_manager": "LabelManager", "configurations": {name: configuration(dimensions, 1)}})
    network = Lopsided()
    predictor = nnUNetPredictor(
        tile_step_size=step_size, use_mirroring=bool(mirroring_axes), device=torch.device("cpu"), allow_tqdm=False
    )
    settings = plans.get_configuration(name)
    predictor.manual_initialization(network, plans, settings, [{}], {"labels": LABELS}, "", mirroring_axes)
    image = torch.randn(1, *shape)
    expected = predictor.predict_logits_from_preprocessed_data(image)

    def run(patches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        logits = np.empty(0)
        for patch in patches:
            logits = network(torch.from_numpy(patch)).numpy()
            yield logits
            logits.fill(np.nan)  # valid until the next ones are asked for

    found = torch.cat(list(predict_logits(image, run, settings.patch_size, mirroring_axes, step_size)), dim=1)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_logits_that_are_not_finite_are_an_error():
    def run(patches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for patch in patches:
            yield np.full((1, 4, *patch.shape[2:]), 1e5, np.float32)

    with pytest.raises(RuntimeError, match="not finite"):
        list(predict_logits(torch.zeros(1, 1, 16, 16), run, (16, 16), (), 0.5))
