"""The likelihood ratio for torch modules; used by train and tune."""
