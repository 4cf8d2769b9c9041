"""What is taken out of the data before training: duplicates, copies of held-out images, and filtered rows."""
