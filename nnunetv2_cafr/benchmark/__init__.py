"""Which arms, which folds, which budget: runs them by nnU-Net's commands and hands their folders to evaluation."""
