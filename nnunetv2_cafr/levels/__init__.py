"""Level decoding: one consistent numbering of a spine, from any network's label map."""
