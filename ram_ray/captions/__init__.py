"""Captions to tags: the parser, its rules, lemmas and languages."""
