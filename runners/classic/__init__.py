"""The evaluation behind `runners.infer`: the original code's flags in, its JSON out. Imported by runners."""
