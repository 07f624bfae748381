"""What the paper prints, to compare with what was measured (PLOS ONE 20(7), 2025, doi 10.1371/journal.pone.0327642).

Its Table 4 and most of its Table 3 could not be recovered: what stands here comes from its text. Other networks' Dice
follows from the differences that the text states, and is marked as derived. What could not be recovered is None. The
paper does not say how it counts absent classes, nor whether it scores slices or volumes. A Dice of 0.9204 is an IoU of
0.8525, so a mean IoU of 89.31 % beside a mean Dice of 92.04 % needs values as far apart as perfect and missed ones (as
absent classes give that count 1), or another way to average.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Printed:
    """A row of the paper; `row` is what Arm.printed_as names. Percent, mm and 10^9 operations."""

    row: str
    dice: float | None = None
    hd_mm: float | None = None
    iou: float | None = None
    gflops: float | None = None
    remark: str = ""


DERIVED = "derived from the difference stated in the text"
CAFR_NET = Printed("CAFR-Net", 92.04, 3.52, 89.31, 5.12)

# Table 3: CAFR-Net and other networks.
NETWORKS = (
    CAFR_NET,
    Printed("Swin-Unet", 90.12, remark=DERIVED),
    Printed("TransUNet", 88.37, remark=DERIVED),
    Printed("U-Net", 85.31, remark=DERIVED),
    Printed("Attention U-Net"),
)
# Table 4: CAFR-Net without its parts.
ABLATION = (
    Printed("neither", 88.92),
    Printed("+ LAFR", 90.43, remark="HD 0.72 mm below neither"),
    Printed("+ CLR", 91.12, remark="HD 1.06 mm below neither"),
    CAFR_NET,
)
