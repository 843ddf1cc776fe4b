"""What `runners.verify` shows: progress, a line per check, and the answers."""
