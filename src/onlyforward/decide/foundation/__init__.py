"""One transformer that coordinates order, price and recommendation, and generalises over instances."""
