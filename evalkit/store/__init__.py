"""The run folder: journal, leases, atomic publish and completeness."""
