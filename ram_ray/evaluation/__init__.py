"""Metrics, and the stage `evaluate`."""
