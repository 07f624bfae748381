"""Metrics, tables and figures from folders of label maps; trains nothing."""
