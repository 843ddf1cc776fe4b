"""Principal components of a picture's tokens, and how much each token loads on each.

Shapes: B rows of a batch, N visual tokens, D hidden size, G components.
"""

import torch
from torch import Tensor

from tokensel.errors import TokenselError


def random_start(tokens: Tensor, components: int, seed: int) -> Tensor:
    """The start of `principal_loadings` that torch.pca_lowrank would draw on a CPU after torch.manual_seed(seed)."""
    drawn = torch.randn(min(tokens.shape[1:]), components, generator=torch.Generator().manual_seed(seed))
    return drawn.to(tokens.device)


@torch.no_grad()
def principal_loadings(tokens: Tensor, components: int, start: Tensor | None = None) -> Tensor:
    """The absolute loading of each token on the first principal components: tokens [B, N, D] -> [B, N, G].

    Tokens are the variables and channels the samples: the sigmoid of the tokens, minus each token's mean over its
    channels, is decomposed.

    start: None = the exact decomposition, in float64, O(N D min(N, D)). Else a random matrix [min(N, D), G], from which
    two rounds of subspace iteration lead to approximate components, in float32, O(N D G); the result depends on it.

    Raises TokenselError for components < 1 or > min(N, D), or a start of another shape. Source: PruneSID
    (arXiv 2603.09480), which uses torch.pca_lowrank; Halko, Martinsson, Tropp 2011, algorithm 5.1.
    """
    least = min(tokens.shape[1:])
    if not 1 <= components <= least:
        raise TokenselError(f"components={components}: must be from 1 to {least}")
    if start is not None and start.shape != (least, components):
        raise TokenselError(f"start: must have the shape {[least, components]}, not {list(start.shape)}")
    values = torch.sigmoid(tokens.float())
    values = values - values.mean(2, keepdim=True)
    vectors = _exact(values.double(), components).float() if start is None else _approximate(values, start)
    return vectors.abs()


def _exact(values: Tensor, components: int) -> Tensor:
    """The first left singular vectors of values [B, N, D], from the smaller Gram matrix: [B, N, G]."""
    wide = values.shape[1] <= values.shape[2]
    gram = torch.bmm(values, values.mT) if wide else torch.bmm(values.mT, values)
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(-1)[..., :components]
    return vectors if wide else torch.nn.functional.normalize(torch.bmm(values, vectors), dim=1)


def _approximate(values: Tensor, start: Tensor, rounds: int = 2) -> Tensor:
    """Approximate left singular vectors of values [B, N, D] from a random start [min(N, D), G]: [B, N, G]."""
    wide = values.shape[1] <= values.shape[2]
    tall = values.mT if wide else values
    basis = torch.linalg.qr(torch.matmul(tall, start)).Q
    for _ in range(rounds):
        other = torch.linalg.qr(torch.bmm(tall.mT, basis)).Q
        basis = torch.linalg.qr(torch.bmm(tall, other)).Q
    left, _, right = torch.linalg.svd(torch.bmm(basis.mT, tall), full_matrices=False)
    return right.mT if wide else torch.bmm(basis, left)
