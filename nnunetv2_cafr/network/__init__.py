"""CAFR-Net as plain torch modules: no plans, no files, nothing of nnU-Net's training."""

from nnunetv2_cafr.network.cafr_net import CAFRNet

__all__ = ["CAFRNet"]
