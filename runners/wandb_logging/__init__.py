"""Sends the results of a sweep to Weights & Biases. Imported by runners only."""
