"""Which patients train, validate and test: what a data set's cases hold, and the division that spreads it evenly."""

SCHEMES = {  # parts, and how the patients are shared out among them
    "folds": {f"fold {fold}": 1 for fold in range(5)},
    "holdout": {"training": 3, "held out": 1},
    "paper": {"training": 70, "validation": 15, "test": 15},
}
DEFAULT_SEED = 12345  # nnU-Net's
