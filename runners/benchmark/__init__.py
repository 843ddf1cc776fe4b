"""What `runners.bench` measures, a module per part, and how it times, prints and stores. Imported by runners."""
