"""Entry points: each is `python -m runners.NAME`, and thin: parse, call, print."""
