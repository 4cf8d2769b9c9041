"""Region detectors: where in an image a tag is."""
