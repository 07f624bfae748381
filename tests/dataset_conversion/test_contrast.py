"""Whether a series is of the kind that a network was trained on, from names and times as scanners write them."""

import pytest
from pydicom.dataset import Dataset

from dataset_conversion.contrast import acquisition_of, doubt_about_contrast, may_be_weighted


@pytest.mark.parametrize(
    ("header", "channel", "doubt"),
    [
        ({"SeriesDescription": "t1_tse_sag"}, "T2", "a T1-weighted series (it is called 't1_tse_sag')"),
        ({"SeriesDescription": "SAG T2W_TSE"}, "T1w", "a T2-weighted series"),
        ({"SeriesDescription": "SAG T2W_TSE"}, "t2_sag", None),
        ({"SeriesDescription": "SAG TSE T12-L5", "EchoTime": 9, "RepetitionTime": 600}, "T2", None),  # no spin echo
        ({"SeriesDescription": "ax T2 from T1 down"}, "T1", None),
        *(
            (
                {"SeriesDescription": name, "ScanningSequence": "SE", "EchoTime": 100, "RepetitionTime": 3000},
                "T1",
                "T2-w",
            )
            for name in ("T SPINE T1-T12 SAG", "SAG C2-T1", "C7 to T1")
        ),
        ({"EchoPulseSequence": "GRADIENT", "SeriesDescription": "t2_me3d_sag"}, "T2", "the kind 'gradient echo'"),
        (
            {"SeriesDescription": "sag", "ScanningSequence": "SE", "EchoTime": 9.1, "RepetitionTime": 600},
            "T2",
            "9.1 ms",
        ),
        ({"ScanningSequence": "SE", "EchoTime": 102, "RepetitionTime": 3500}, "T1", "a T2-weighted"),
        ({"ScanningSequence": "SE", "EchoTime": 102, "RepetitionTime": 3500}, "T2", None),
        ({"ScanningSequence": "SE", "EchoTime": 30, "RepetitionTime": 3500}, "T2", None),  # proton density
        ({"ScanningSequence": ["SE", "IR"], "EchoTime": 12, "RepetitionTime": 600}, "T2", None),
        ({"ScanningSequence": "SE", "EchoTime": None, "RepetitionTime": 600}, "T2", None),
        ({"Modality": "CT"}, "T2", "a CT series"),
        ({"Modality": "CT"}, "MRI", "a CT series"),
        ({"Modality": "MR"}, "CT", "a MR series"),
        ({"Modality": "CT"}, "ct_portal", None),
        ({"Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "T2", "the kind 'phase'"),
        ({"Modality": "MR", "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]}, "T2", "the kind 'ADC'"),
        ({"Modality": "MR", "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]}, "adc", None),
        ({"Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]}, "T2", None),
        ({"Modality": "MR", "ImageType": ["ORIGINAL", "P", "M", "ND"]}, "T2", None),  # it is the third that tells
        ({"Modality": "MR", "ImageType": "ORIGINAL"}, "T2", None),
        ({"Modality": "MR", "SeriesDescription": "t1_tse"}, "image", None),
        ({"SeriesDescription": "sT1W_TSE"}, "T2", "a T1-weighted series"),
        ({"SeriesDescription": "SAGT1"}, "T2", "a T1-weighted series"),
        ({"ProtocolName": "sag t1 tse"}, "T2", "a T1-weighted series (it is called 'sag t1 tse')"),
        ({"SeriesDescription": "sag tse", "ProtocolName": "spine T1"}, "T2", None),  # of the whole examination
        ({"SeriesDescription": "SAG STIR"}, "T2", "the kind 'STIR'"),
        ({"SeriesDescription": "SAG STIR"}, "stir", None),
        ({"SeriesDescription": "t2*_gre_sag"}, "T2", "the kind 'T2*'"),
        ({"SeriesDescription": "PD sag"}, "T2", "the kind 'PD'"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIXON", "FAT"]}, "T2", "the kind 'fat'"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"]}, "T2", None),
        ({"ImageType": ["DERIVED", "PRIMARY", "F", "F", "DERIVED"]}, "T2", "the kind 'fat'"),
        ({"ImageType": ["DERIVED", "PRIMARY", "OP", "OP", "DERIVED"]}, "T2", "the kind 'opposed phase'"),
        ({"SeriesDescription": "t2_me2d_sag", "ScanningSequence": "GR"}, "T2", "the kind 'gradient echo'"),
        ({"SeriesDescription": "t2_tgse_sag", "ScanningSequence": ["SE", "GR"]}, "T2", None),
        ({"SeriesDescription": "t1_vibe_sag", "ScanningSequence": "GR"}, "T1", None),
        ({"FrameType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]}, "T2", "the kind 'diffusion'"),
        ({"AcquisitionContrast": "T1"}, "T2", "a T1-weighted series (its AcquisitionContrast is T1)"),
        ({"AcquisitionContrast": "PROTON_DENSITY"}, "T2", "the kind 'PD'"),
        ({"EchoPulseSequence": "SPIN", "EffectiveEchoTime": 9, "RepetitionTime": 600}, "T2", "a T1-weighted series"),
        ({"SeriesDescription": "CORT1"}, "T2", "a T1-weighted series"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "T2", "the kind 'ADC'"),  # says more
        (
            {"FrameType": ["DERIVED", "PRIMARY", "DIXON", "FAT"], "ImageType": ["DERIVED", "PRIMARY", "M", "ND"]},
            "T2",
            "the kind 'fat'",
        ),
        ({"SeriesDescription": "sag t2", "AcquisitionContrast": "T1"}, "T2", None),
        ({}, "T2", None),
    ],
)
def test_doubts(header, channel, doubt):
    dataset = Dataset()
    for name, value in header.items():
        setattr(dataset, name, value)
    found = doubt_about_contrast(acquisition_of(dataset), channel)
    assert found is None if doubt is None else doubt in (found or "")


@pytest.mark.parametrize("name", ["t2*_gre_sag", "T2_star", "t2star"])
def test_t2_star_is_no_t2(name):
    dataset = Dataset()
    dataset.SeriesDescription = name
    assert (acquisition_of(dataset).weighting, acquisition_of(dataset).derived) == ("", "T2*")


@pytest.mark.parametrize(
    ("header", "may"),
    [
        ({}, True),
        ({"ScanningSequence": "SE"}, True),
        ({"ScanningSequence": "EP"}, False),
        ({"ScanningSequence": ["SE", "EP"]}, False),
        ({"ScanningSequence": "SE", "ImageType": ["DERIVED", "PRIMARY", "ADC"]}, False),
    ],
)
def test_what_may_be_t1_or_t2_though_it_does_not_say_so(header, may):
    dataset = Dataset()
    for name, value in header.items():
        setattr(dataset, name, value)
    assert may_be_weighted(dataset) == may
