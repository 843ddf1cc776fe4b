"""Trains the embedded LLaVA: what each step shows, the optimizer and the training loops.

May import models, data, functional and errors. Imported by runners only.
"""
