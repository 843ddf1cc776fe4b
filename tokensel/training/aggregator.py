"""A learned aggregator: cross-attention with small trained projections, as a module and as a safetensors file.

    aggregator = load_aggregator("tiny")                 # the embedded model's; or FILE.safetensors
    with reduce_tokens(model, "fps", kept=8, aggregation="learned", aggregator=aggregator): ...

`python -m runners.train_aggregator` writes such files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as as_safetensors
from torch import Tensor, nn

from tokensel.choices import LARGEST_TEMPERATURE, LEAST_TEMPERATURE
from tokensel.errors import TokenselError, as_typed, first_line
from tokensel.functional import counted_learned_attention, learned_attention, learned_cross_attention

#: The file of each embedded model that has one, by the model's name.
SHIPPED: dict[str, Path] = {"tiny": Path(__file__).parent / "aggregators" / "tiny.safetensors"}
SUFFIX = ".safetensors"
#: Of the metadata: what makes the tensors' shapes, and the layout of the file.
_SIZES = ("width", "rank", "heads")
_FORMAT = "tokensel.aggregator/1"
#: No aggregator is larger; a model's weights given by mistake are not read.
_MOST_BYTES = 1 << 30


class LearnedAggregator(nn.Module):
    """The parameters of `tokensel.functional.learned_cross_attention`. As made, it is plain cross-attention.

    Parameters:
        width: D, the decoder's hidden size. rank: r of every projection. heads: H, which divides D.
        temperature: at which every head begins.
        seed: of the down projections, which are random; the up projections begin at zero.
        made: what is known of how it was trained: plain values, stored in the file's metadata.

    Raises TokenselError for sizes that do not fit each other.
    """

    def __init__(
        self,
        width: int,
        rank: int = 8,
        heads: int = 4,
        temperature: float = 0.1,
        seed: int = 0,
        made: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or rank < 1 or heads < 1 or width % heads or rank > width:
            raise TokenselError(
                f"heads={heads}, rank={rank}: heads must divide the model's hidden size {width}, and rank must be from "
                f"1 to {width}"
            )
        self.width, self.rank, self.heads = width, rank, heads
        self.made = dict(made or {})
        self.source = "module"
        generator = torch.Generator().manual_seed(seed)
        for part, lead in (("query", (heads,)), ("key", (heads,)), ("value", ())):
            down = torch.randn(*lead, width, rank, generator=generator) / width**0.5
            self.register_parameter(f"{part}_down", nn.Parameter(down))
            self.register_parameter(f"{part}_up", nn.Parameter(torch.zeros(*lead, rank, width)))
        self.log_temperature = nn.Parameter(torch.full((heads,), float(temperature)).log())

    def forward(
        self, queries: Tensor, tokens: Tensor, width: int | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """What each query gathers: [B, M, D], [B, N, D] -> [B, M, D]. width, weights: as for `learned_cross_attention`.

        Raises TokenselError for tokens of another width.
        """
        self.check_width(tokens.shape[-1] if width is None else width)
        given = self._on(tokens.device, "value")
        return learned_cross_attention(queries, tokens, **given, width=width, weights=weights)

    def counted(
        self, queries: Tensor, tokens: Tensor, width: int | None, weights: Tensor | None, real: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What each query gathers, and how many tokens it then stands for, see `counted_learned_attention`."""
        self.check_width(tokens.shape[-1] if width is None else width)
        given = self._on(tokens.device, "value")
        return counted_learned_attention(queries, tokens, **given, width=width, weights=weights, real=real)

    def weights(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """The weights of each head, [B, H, M, N]."""
        self.check_width(tokens.shape[-1])
        return learned_attention(queries, tokens, **self._on(tokens.device))

    def flops(self, kept: int, count: int, features: int = 0) -> int:
        """FLOPs for `kept` of `count` tokens that have `features` features of their width behind them."""
        projections = 4 * self.width * self.rank * (self.heads * (kept + count) + count)
        return projections + 2 * kept * count * self.width * (self.heads + 1 + features)

    def check_width(self, width: int) -> None:
        """Raises TokenselError unless the model's hidden size is this aggregator's."""
        if width != self.width:
            raise TokenselError(
                f"aggregator={as_typed(self.source)}: made for hidden states {self.width} wide, not {width}; "
                "train one for this model with runners.train_aggregator"
            )

    def _on(self, device: torch.device, *more: str) -> dict[str, Tensor]:
        """The arguments of the functions, float32 on the device."""
        parts = [f"{part}_{way}" for part in ("query", "key", *more) for way in ("down", "up")]
        named = {name: getattr(self, name).to(device, torch.float32) for name in parts}
        return named | {"temperature": self.log_temperature.to(device, torch.float32).exp()}


def aggregator_bytes(aggregator: LearnedAggregator) -> bytes:
    """The aggregator as a safetensors file. Equal parameters and `made` give equal bytes."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in aggregator.state_dict().items()}
    sizes = {name: getattr(aggregator, name) for name in _SIZES}
    stated = {"format": _FORMAT, **sizes, "made": aggregator.made}
    # One entry: several are written in an order that changes from process to process.
    return as_safetensors(tensors, {"aggregator": json.dumps(stated, sort_keys=True)})


def load_aggregator(source: str | os.PathLike[str] | nn.Module | None) -> LearnedAggregator:
    """The aggregator of a file; or of an embedded model, by its name; a module as it is. Files are read once.

    Raises TokenselError, in one line, for a file that is none, is damaged, or holds other tensors or numbers than an
    aggregator does.
    """
    if isinstance(source, LearnedAggregator):
        return source
    if source is None or isinstance(source, nn.Module):
        given = type(source).__name__
        raise TokenselError(
            f"aggregator={given}: aggregation='learned' needs FILE{SUFFIX}, which runners.train_aggregator writes, or "
            f"{' or '.join(map(repr, SHIPPED))} for the embedded model"
        )
    named = str(source)
    path = find_file(named)
    try:
        status = path.stat()
        if not path.is_file() or status.st_size > _MOST_BYTES:
            raise TokenselError(f"aggregator={as_typed(named)}: must be the file of an aggregator")
        return _read(path, named, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise TokenselError(f"aggregator={as_typed(named)}: cannot be read ({error.strerror})") from error


def find_file(source: str) -> Path:
    """The file that a name or path means. Raises TokenselError for one with another suffix."""
    path = SHIPPED.get(source) or Path(os.path.expanduser(source))
    if path.suffix != SUFFIX:
        raise TokenselError(
            f"aggregator={as_typed(source)}: must be a file that ends in {SUFFIX}, or {', '.join(SHIPPED)}"
        )
    return path


def aggregator_digest(aggregator: LearnedAggregator) -> str:
    """A digest of everything that its results depend on: equal for equal parameters, whatever the file is called."""
    digest = hashlib.sha256(repr([getattr(aggregator, name) for name in _SIZES]).encode())
    for name, value in sorted(aggregator.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=64)
def _read(path: Path, named: str, _changed: int, _size: int) -> LearnedAggregator:
    data = path.read_bytes()
    try:
        tensors = read_safetensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__") or {}
        stated = json.loads(metadata.get("aggregator", "null"))
    except (SafetensorError, ValueError, RecursionError, AttributeError) as error:
        raise TokenselError(
            f"aggregator={as_typed(named)}: is no safetensors file, or damaged ({first_line(error)})"
        ) from error
    if not isinstance(stated, dict) or stated.get("format") != _FORMAT:
        raise TokenselError(
            f"aggregator={as_typed(named)}: is no aggregator's file; runners.train_aggregator writes them"
        )
    sizes: list[Any] = [stated.get(name) for name in _SIZES]
    if any(type(size) is not int for size in sizes):
        raise TokenselError(f"aggregator={as_typed(named)}: its metadata lacks {', '.join(_SIZES)}")
    if min(sizes) < 1 or sizes[0] * sizes[1] * sizes[2] > len(data):
        raise TokenselError(f"aggregator={as_typed(named)}: its metadata states other sizes than its tensors have")
    made = stated.get("made")
    with torch.inference_mode(False):  # it may be read in the middle of an evaluation, and trained later
        width, rank, heads = sizes
        aggregator = LearnedAggregator(width, rank, heads, made=made if isinstance(made, dict) else {})
        _fill(aggregator, tensors, named)
    aggregator.source = named
    return aggregator.requires_grad_(False).eval()


def _fill(aggregator: LearnedAggregator, tensors: Mapping[str, Tensor], named: str) -> None:
    expected = aggregator.state_dict()
    if unknown := sorted(set(tensors) ^ set(expected)):
        raise TokenselError(
            f"aggregator={as_typed(named)}: {as_typed(unknown[0])} is "
            f"{'missing' if unknown[0] in expected else 'unknown'}; its tensors must be {', '.join(expected)}"
        )
    for name in expected:
        value = tensors[name]
        if value.shape != expected[name].shape or not value.is_floating_point():
            raise TokenselError(
                f"aggregator={as_typed(named)}: {name} is {value.dtype} {list(value.shape)}, and must be a float "
                f"{list(expected[name].shape)}"
            )
        if not bool(value.float().isfinite().all()):
            raise TokenselError(f"aggregator={as_typed(named)}: {name} holds numbers that are not finite")
    scales = tensors["log_temperature"].double().exp()
    if not bool(((scales >= LEAST_TEMPERATURE) & (scales <= LARGEST_TEMPERATURE)).all()):
        raise TokenselError(f"aggregator={as_typed(named)}: log_temperature is beyond what float32 can divide by")
    aggregator.load_state_dict({name: value.float() for name, value in tensors.items()})
