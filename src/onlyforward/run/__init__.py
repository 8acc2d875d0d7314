"""How runs are executed, paid for and survived."""
