"""Where noise enters."""
