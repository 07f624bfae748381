"""Metrics, tables and figures from folders of label maps; trains nothing."""

TOLERANCE_MM = 1.0  # of the NSD
