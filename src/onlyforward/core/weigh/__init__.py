"""How signals become weights."""
