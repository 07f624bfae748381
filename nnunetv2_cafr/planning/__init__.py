"""Plans for CAFR-Net: its architecture, its memory, and nnU-Net's experiment planner made to follow them."""

GB = 10**9

# Assumed, not measured: the CUDA context with its kernels, and the workspaces of cuDNN and cuBLAS.
CONTEXT_BYTES = GB
