"""Backends of the forward pass: torch and OpenVINO."""
