"""The closing table, the run's report and the data engine's page."""
