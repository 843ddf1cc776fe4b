"""A sweep, step by step: settings -> plan -> work -> compute -> results.

Knows nothing of the command line, Hydra or W&B. Imported by runners.
"""
