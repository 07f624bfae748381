"""Which patients train, validate and test: what a data set's cases hold, and the division that spreads it evenly."""

FOLDS = 5  # of nnU-Net's own cross-validation
SCHEMES = {  # parts, and how the patients are shared out among them
    "folds": {f"fold {fold}": 1 for fold in range(FOLDS)},
    "holdout": {"training": 3, "held out": 1},
    "paper": {"training": 70, "validation": 15, "test": 15},
}
DEFAULT_SEED = 12345  # nnU-Net's
