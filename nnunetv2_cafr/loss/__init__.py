"""CAFR-Net's training loss: nnU-Net's own Dice and cross-entropy, and a pixel-wise contrastive term."""

from .compound import DiceCECLRLoss
from .info_nce import PixelInfoNCE

__all__ = ["DiceCECLRLoss", "PixelInfoNCE"]
