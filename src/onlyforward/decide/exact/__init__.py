"""Independent truth: exact solvers that share no code with the simulators they judge."""
