"""Checks before a run starts: problems that would end it later."""
