"""Scans as `predict` reads them, and label maps as it writes them back; without a network.

Its reading is held against that of the converters, which has targets of its own.
"""

import contextlib
import io
import tempfile
from pathlib import Path
from unittest import mock

import nibabel
import numpy as np
import SimpleITK as sitk
from hypothesis import strategies as st

from dataset_conversion.reading import read_volume
from nnunetv2_cafr.deployment import studies
from nnunetv2_cafr.deployment.description import Description
from nnunetv2_cafr.deployment.label_maps import LabelMaps
from nnunetv2_cafr.deployment.orders import as_stored
from nnunetv2_cafr.errors import UserError

from .files import Nifti, niftis, sound_niftis
from .harness import fuzz
from .test_dicom import SOUND, Series, spoilt_series
from .test_plans import DESCRIPTION, PLANS
from .test_volumes import affine_in_ras
from .text_headers import TextFile, text_files

ORDERS = {"SimpleITKIO": "PIR", "NibabelIO": "LPS", "SimpleITKIOWithReorient": "RAS", "NibabelIOWithReorient": "RAS"}
READERS = st.sampled_from(sorted(ORDERS))


def _predict(scan: Nifti | TextFile | Series, reader: str) -> str:
    order = ORDERS[reader]
    plans = {**PLANS, "image_reader_writer": reader}
    description = Description({**DESCRIPTION, "plans": plans, "voxel_order": order, "sha256": "0" * 64})
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        path = Path(name) / ("scan" if isinstance(scan, Series) else f"scan{scan.ending}")
        if isinstance(scan, Series):
            path.mkdir()
            scan.write(path)
        else:
            path.write_bytes(scan.content())
        volume, problems = read_volume(path)
        try:
            (study,) = studies.find_studies([path], description)
            with mock.patch.object(studies, "FEWEST_PIXELS", 1):
                image, geometry = studies.read_study(study, description)
        except (studies.UnusableStudyError, UserError) as refusal:
            assert str(path) in str(refusal), refusal
            return "refused, as by the converters" if problems else "refused by prediction alone"
        assert volume is not None and not problems, problems
        expected = sitk.DICOMOrient(volume.image, order)
        voxels = sitk.GetArrayFromImage(expected).astype(np.float32)
        np.testing.assert_allclose(image[0], voxels, rtol=1e-5, atol=1e-5 * np.abs(voxels).max())
        np.testing.assert_allclose(geometry["spacing"], expected.GetSpacing()[::-1], rtol=1e-5)

        labels = np.random.default_rng(0).integers(0, 2, voxels.shape).astype(np.uint8)
        maps = LabelMaps(Path(name) / "out", description, path, {})
        maps.begin()
        maps.write(study, as_stored(labels, geometry, order), geometry)
        written = nibabel.load(Path(name) / "out" / "scan.nii.gz")
        place = affine_in_ras(volume.image)
        assert written.shape == volume.image.GetSize()
        np.testing.assert_allclose(written.affine, place, rtol=1e-5, atol=1e-3 * min(volume.image.GetSpacing()))
        back = sitk.GetImageFromArray(np.asarray(written.dataobj).transpose())
        back.CopyInformation(volume.image)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(back, order)), labels)
        return "predicted"


@fuzz(40, scan=sound_niftis() | st.builds(Series, **SOUND), reader=READERS)
def test_sound_scan(scan: Nifti | Series, reader: str) -> str:
    """The network sees any scan in its own order, and its labels lie on the scan's grid."""
    outcome = _predict(scan, reader)
    assert outcome == "predicted"
    return outcome


@fuzz(60, scan=niftis() | text_files(".mha") | text_files(".nrrd") | spoilt_series(), reader=READERS)
def test_any_scan(scan: Nifti | TextFile | Series, reader: str) -> str:
    """Spoilt files: what the converters refuse is refused, and what is left is predicted in its place."""
    return _predict(scan, reader)
