"""A trained network as one ONNX file, and predictions from it without trainers, checkpoints or PyTorch's networks."""
