"""From the command line to the settings of a sweep, by Hydra. Imported by the commands only."""
