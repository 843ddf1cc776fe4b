"""What makes the embedded model: its lessons, its optimizer and the training loop.

May import methods, models, data, functional and errors. Imported by runners.
"""
