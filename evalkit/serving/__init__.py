"""Deployments: how a model is served, from start to shutdown."""
