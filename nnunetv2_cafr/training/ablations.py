"""The paper's ablations (results section): nnUNetTrainer_CAFR with one part left out, all else equal."""

from nnunetv2_cafr.training.cafr import nnUNetTrainer_CAFR


class nnUNetTrainer_CAFR_noLAFR(nnUNetTrainer_CAFR):
    """Skips enter the decoder without recalibration."""

    use_lafr = False


class nnUNetTrainer_CAFR_noCLR(nnUNetTrainer_CAFR):
    """Dice + CE alone; the network has no contrastive head."""

    use_clr = False


class nnUNetTrainer_CAFR_noLAFR_noCLR(nnUNetTrainer_CAFR):
    """Neither recalibration nor contrastive loss."""

    use_lafr = False
    use_clr = False


class nnUNetTrainer_CAFR_noTransformer(nnUNetTrainer_CAFR):
    """The hierarchy reads the patch embedding itself: no attention, no context beyond the convolutions."""

    use_transformer = False
