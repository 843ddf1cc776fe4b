"""What `runners.search` is made of: Hydra's Optuna sweeper, and what is printed."""
