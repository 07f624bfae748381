"""Every public name shows how it is used, and the examples run."""

import doctest

import pytest

import nnunetv2_cafr
from nnunetv2_cafr import errors, loss, network, training
from nnunetv2_cafr.network import contrastive_unet, swin_unet, trans_unet

NETWORKS = (contrastive_unet.ContrastiveUNet, swin_unet.SwinUNet, trans_unet.TransUNet)
PUBLIC = (
    *(getattr(package, name) for package in (nnunetv2_cafr, network, loss) for name in package.__all__),
    *NETWORKS,
    errors.UserError,
)


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public.__name__)
def test_example_runs(public):
    (test,) = doctest.DocTestFinder(recurse=False).find(public, public.__name__)
    assert test.examples
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert runner.run(test).failed == 0


@pytest.mark.parametrize("name", training.__all__)
def test_trainer_shows_its_command(name):
    assert f"`nnUNetv2_train 511 2d 0 -tr {name}`" in getattr(training, name).__doc__
