"""Evaluation sets: images, their true classes, and a class list of their own."""
