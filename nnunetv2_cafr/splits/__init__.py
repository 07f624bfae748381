"""Which patients train, validate and test: what a data set's cases hold, and the division that spreads it evenly."""
