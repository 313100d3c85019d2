"""Configurations of the NeMo Evaluator launcher (0.2), read into evalkit's own recipes."""
