"""Synthetic sagittal T2 volumes of the lumbar spine, in the layout of the SpineMRI (MRSpineSeg) challenge set.

SpineMRI must not be redistributed, so tests and the demo draw their own. What makes the task hard is kept: vertebrae
differ little from their neighbours, so that only the sacrum, or counting from it, tells the level; 7 to 10 vertebral
levels are visible, the uppermost cut by the border; slices are thick, and the spine ends within the outer ones; discs
vary in height, brightness and bulge; receive-coil bias, Rician noise and partial volume lie over all of it.

Anatomical lengths are in mm of an average adult and are rounded from textbook morphometry. They, the grey values and
the random ranges are ours; the paper has none.
"""

from nnunetv2_cafr.phantom.dataset import make_case, write_dataset

__all__ = ["make_case", "write_dataset"]
