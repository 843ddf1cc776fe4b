"""What `runners.show` reads from its arguments and what it prints and draws. Imported by runners."""
