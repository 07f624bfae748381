"""CAFR-Net's training loss: nnU-Net's own Dice and cross-entropy, and a pixel-wise contrastive term."""

from .compound import DiceCECLRLoss
from .deep_supervision import DeepSupervisionCLRLoss
from .info_nce import PixelInfoNCE

__all__ = ["DeepSupervisionCLRLoss", "DiceCECLRLoss", "PixelInfoNCE"]
