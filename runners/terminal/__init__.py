"""What commands share on the terminal: arguments, progress bars, tables, log files. Imported by the commands only."""
