"""Trains the embedded LLaVA, and learned aggregators: what each step shows, the optimizers and the training loops.

May import models, data, functional and errors. Imported by runners; `aggregator`, which holds what was trained, by the
engine and every package above it.
"""
