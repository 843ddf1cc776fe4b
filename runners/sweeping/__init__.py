"""What a sweep does."""
