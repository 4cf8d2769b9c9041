"""Builds the label system: counts, merges, matching in captions, HTML page and stages."""
