"""CAFR-Net for nnU-Net v2: a Transformer encoder, local recalibration (LAFR) and a contrastive head (CLR).

The network and the loss are plain torch (`nnunetv2_cafr.network`, `nnunetv2_cafr.loss`); the trainers that nnU-Net
finds by name are in `nnunetv2_cafr.training`. Source: "CAFR-Net: A transformer-contrastive framework for robust
spinal MRI segmentation via global-local synergy", PLOS ONE 20(7), 2025, doi 10.1371/journal.pone.0327642.
"""

TYPE_CHECKING = False  # without typing, since Python 3.15 imports this package at every start (startup.py)
if TYPE_CHECKING:
    from nnunetv2_cafr.deployment.model import load_model

__all__ = ["load_model"]


def __getattr__(name: str) -> object:
    """Imports `load_model`, and torch with it, when it is asked for: nnU-Net's lookup imports this package too."""
    if name == "load_model":
        from nnunetv2_cafr.deployment.model import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
