"""CAFR-Net for nnU-Net v2: a Transformer encoder, local recalibration (LAFR) and a contrastive head (CLR).

The network and the loss are plain torch (`nnunetv2_cafr.network`, `nnunetv2_cafr.loss`); the trainers that nnU-Net
finds by name are in `nnunetv2_cafr.training`. Source: "CAFR-Net: A transformer-contrastive framework for robust
spinal MRI segmentation via global-local synergy", PLOS ONE 20(7), 2025, doi 10.1371/journal.pone.0327642.
"""
