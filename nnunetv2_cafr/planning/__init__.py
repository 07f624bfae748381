"""Plans for CAFR-Net: its architecture, its memory, and nnU-Net's experiment planner made to follow them."""
