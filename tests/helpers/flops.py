"""What torch counts, as the costs do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Counter(TorchDispatchMode):
    """The FLOPs of what runs, by torch's own formulas, less those of rotary embeddings: some versions of transformers
    compute them by a product.

    FlopCounterMode also sorts them by modules and takes apart what autograd has taken apart already, which takes five
    times as long as the model.
    """

    def __init__(self, formulas: dict[Any, Any]) -> None:
        super().__init__()
        self.total = 0
        self.formulas = flop_registry | formulas
        self.rotary = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **kwargs or {})
        formula = self.formulas.get(function._overloadpacket)
        if formula is not None and not self.rotary:
            self.total += formula(*args, **kwargs or {}, out_val=output)
        return output


@contextmanager
def counting(model: torch.nn.Module, formulas: dict[Any, Any] | None = None) -> Iterator[Counter]:
    """Counts what the model computes in the block, without gradients. formulas: those that torch lacks.

    torch has no formula for fused attention on a CPU; the MATH kernel consists of matrix products, which it counts.
    """
    counter = Counter(formulas or {})

    def add(step: int) -> Any:
        def hook(*_: Any) -> None:
            counter.rotary += step

        return hook

    rotary = [module for name, module in model.named_modules() if name.endswith(".rotary_emb")]
    hooks = [module.register_forward_pre_hook(add(1)) for module in rotary]
    hooks += [module.register_forward_hook(add(-1)) for module in rotary]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            yield counter
    finally:
        for each in hooks:
            each.remove()
