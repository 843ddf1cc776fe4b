"""What commands share: arguments, progress bars, tables."""
