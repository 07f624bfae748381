"""The right level: one consistent numbering of a spine from a network's label map, whatever network it was."""
