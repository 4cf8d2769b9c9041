"""Where in an image a tag is."""
