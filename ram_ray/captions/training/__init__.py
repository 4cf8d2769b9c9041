"""What makes and scores the shipped caption parser."""
