"""What computes a forward: torch or OpenVINO."""
