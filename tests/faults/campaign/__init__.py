"""Fault campaigns: runs that are disturbed in every way there is, and must end as if nothing had been.

    python -m tests.faults.campaign --seed 1 --faults 200
    python -m tests.faults.campaign --real --seed 1

Order, place and moment of the faults follow from the seed. What a campaign proves is in
docs/reference/faults.md.
"""
