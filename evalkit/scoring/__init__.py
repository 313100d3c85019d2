"""Graders shared by benchmarks."""
