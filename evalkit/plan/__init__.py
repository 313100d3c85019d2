"""The pure step from a recipe to a Plan: fingerprints, shard sizing and order."""
