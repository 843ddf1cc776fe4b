"""Devices that are not there: tensors that say they are on one, compute on the CPU, and do not meet those of others."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

KIND = "xpu"  # of which this machine has none
ONE, TWO = torch.device(KIND, 0), torch.device(KIND, 1)
_MOVES = (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.copy_)


class Mixed(AssertionError):
    """An operation on tensors of two devices."""


class Placed(torch.Tensor):
    """A tensor on a device that is not there."""

    lies_on: torch.device

    @property
    def device(self):
        return self.lies_on

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def placed(real, where):
    made = real.detach().as_subclass(Placed)
    made.lies_on = where
    return made


def run(func, args, kwargs):
    """The function on the numbers themselves; its result is where what it was given is, or where it was asked to be."""
    found = []
    tree_map_only(torch.Tensor, found.append, (args, kwargs))
    devices = {each.lies_on for each in found if isinstance(each, Placed)}
    plain = [each for each in found if not isinstance(each, Placed)]
    # As on a GPU, a single number may be on the CPU.
    if func not in _MOVES and (len(devices) > 1 or (devices and any(each.ndim for each in plain))):
        shapes = [(list(each.shape), str(each.device)) for each in found]
        raise Mixed(f"{getattr(func, '__name__', func)}: {shapes}")
    where = next(iter(devices), torch.device("cpu"))
    if func is torch.Tensor.to:
        args, kwargs, where = _moved(args, kwargs, where)
    elif func is torch.Tensor.cpu:
        where = torch.device("cpu")
    elif func is torch.Tensor.copy_:
        where = args[0].device
    elif kwargs.get("device") is not None:
        where = torch.device(kwargs["device"])
        kwargs = kwargs | {"device": "cpu"}
    with torch._C.DisableTorchFunctionSubclass():
        args, kwargs = tree_map_only(Placed, lambda each: each.as_subclass(torch.Tensor), (args, kwargs))
        output = func(*args, **kwargs)
    if where.type == "cpu":
        return output
    return tree_map_only(torch.Tensor, lambda each: placed(each, where), output)


def _moved(args, kwargs, where):
    """The arguments of Tensor.to without a device, and the device."""
    tensor, *rest = args
    if rest and isinstance(rest[0], torch.Tensor):
        where, rest = rest[0].device, [rest[0].dtype, *rest[1:]]
    elif rest and isinstance(rest[0], (str, torch.device)):
        where, rest = torch.device(rest[0]), rest[1:]
    if kwargs.get("device") is not None:
        where = torch.device(kwargs["device"])
    kwargs = {name: value for name, value in kwargs.items() if name != "device"}
    if not rest and "dtype" not in kwargs:
        rest = [tensor.dtype]
    return (tensor, *rest), kwargs, where


class Devices(TorchFunctionMode):
    """While it is active, tensors can be made on devices that are not there and moved to them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        asked = [kwargs.get("device"), *(args[1:] if func is torch.Tensor.to else ())]
        if any(KIND in str(each) for each in asked if isinstance(each, (str, torch.device))):
            return run(func, args, kwargs)
        if func is torch.Tensor.to and any(isinstance(each, Placed) for each in args):
            return run(func, args, kwargs)
        return func(*args, **kwargs)


def place(module, where):
    """Puts a module's weights on a device; what the module is given is moved there, as accelerate's hooks do."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = torch.nn.Parameter(placed(weight.data, where), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = placed(buffer, where)

    def move(module, args, kwargs):
        return tree_map_only(torch.Tensor, lambda each: each.to(where), (args, kwargs))

    module.register_forward_pre_hook(move, with_kwargs=True)
