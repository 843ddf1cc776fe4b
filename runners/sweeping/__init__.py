"""What commands share that run sweeps."""
