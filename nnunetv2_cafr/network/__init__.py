"""CAFR-Net and the networks it is compared with, as plain torch modules: no plans, no files, no trainers.

A network's class says what it can do, where export and prediction look for it:

- `size_multiple`: sizes per axis; the network pads its input to multiples of them.
- `free_sizes = False`: torch.export works for one patch size only.
"""

from nnunetv2_cafr.network.cafr_net import CAFRNet

__all__ = ["CAFRNet"]
