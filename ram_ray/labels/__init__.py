"""The label system: counts, merges, build, matching, its page and stages."""
