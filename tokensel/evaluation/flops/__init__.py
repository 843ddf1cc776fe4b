"""What a prefill costs on paper: floating-point operations and KV-cache bytes, from the configuration alone.

Counted as torch.utils.flop_counter counts: matrix products, convolutions and attention, two per multiply-add,
attention dense (a causal kernel may do half). Norms, softmaxes, rotary embeddings, sorting and gathering are left out:
below 1% together.
"""

from tokensel.evaluation.flops.prefill import Cost, prefill_cost
from tokensel.evaluation.flops.vision import picture_flops

__all__ = ["Cost", "picture_flops", "prefill_cost"]
