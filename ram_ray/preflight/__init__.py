"""What would end a run later, found before it starts."""
