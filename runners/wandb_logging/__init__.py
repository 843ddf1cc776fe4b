"""Sweeps in Weights & Biases."""
