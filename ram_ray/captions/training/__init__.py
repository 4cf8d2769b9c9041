"""Training and scoring of the shipped caption parser."""
