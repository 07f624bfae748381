"""What nnU-Net calls a training's checkpoints, for those who need no torch to name a file."""

FINAL, LATEST, BEST = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"
