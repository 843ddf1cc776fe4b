"""The cost of a prefill by formula: FLOPs and KV-cache bytes, from the model's configuration alone.

Counts what torch.utils.flop_counter counts: matrix products, convolutions and attention, two FLOPs per multiply-add.
Attention is counted in full, although a causal kernel may compute only half of it. Norms, softmaxes, rotary embeddings,
sorting, gathering, and deepstack features that a method merges with its tokens are left out: together they are below
1%.
"""

from tokensel.evaluation.flops.prefill import Cost, prefill_cost
from tokensel.evaluation.flops.vision import picture_flops

__all__ = ["Cost", "picture_flops", "prefill_cost"]
