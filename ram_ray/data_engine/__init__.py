"""The data engine: generate and clean tags (arXiv 2306.03514, section 3.3)."""
