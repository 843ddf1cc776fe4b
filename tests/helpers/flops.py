"""What torch's counter counts, as the costs do."""


def without_rotary(counter):
    """The FLOPs that were counted, less rotary embeddings: some versions of transformers compute them by a product."""
    rotary = [counts for name, counts in counter.get_flop_counts().items() if name.endswith(".rotary_emb")]
    return counter.get_total_flops() - sum(sum(counts.values()) for counts in rotary)
