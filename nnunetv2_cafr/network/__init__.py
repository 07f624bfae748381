"""CAFR-Net and what it is compared with as plain torch modules: no plans, no files, nothing of nnU-Net's training.

What a network can do stands on its class, where export and prediction ask for it:

- `size_multiple`: the sizes per axis whose multiples it works on; it pads to them inside.
- `free_sizes = False`: torch.export follows it for one size of patches only.
"""

from nnunetv2_cafr.network.cafr_net import CAFRNet

__all__ = ["CAFRNet"]
