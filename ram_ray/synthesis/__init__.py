"""Text-to-image generators, StableRep's losses, and the stage `represent`."""
