"""From the command line to the settings of a sweep, by Hydra."""
