"""The sections of a run's configuration, a file for each package of code."""
