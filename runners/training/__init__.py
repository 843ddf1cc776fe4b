"""What `runners.train_tiny` runs: the training with its log, and the measure of a model. Imported by runners."""
