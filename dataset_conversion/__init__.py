"""Converters from published spine MRI collections to nnU-Net's `Dataset###_Name` format."""
