"""How many runs each item gets."""
