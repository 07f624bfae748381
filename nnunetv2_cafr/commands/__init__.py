"""The verbs of `nnUNetv2_cafr`: arguments in, messages out. cli.py imports the one that is asked for."""
