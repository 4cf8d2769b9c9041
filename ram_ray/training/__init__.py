"""The training step, its feed, and the strategies that distribute it."""
