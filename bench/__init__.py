"""Benchmarks of evalkit itself: measured, side by side with peers where there are any.

Each module runs by `python -m bench.NAME` from the repository's root and prints what it measured with
the machine, the load and the versions. What was found is written down in
docs/reference/performance.md.
"""
