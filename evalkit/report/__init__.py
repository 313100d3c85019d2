"""Journals to artifacts: results, statistics and tables."""
