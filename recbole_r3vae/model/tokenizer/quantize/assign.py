"""How one level turns a residual into a code and a quantised vector: a codebook with an assignment rule.

Every level is a module with the same two methods, so that a :class:`.ResidualQuantizer` can stack any of
them: ``rating(x)`` says how well each codeword suits, ``forward(x)`` returns the code of the best and what
it makes of ``x``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_r3vae.model.tokenizer.quantize.codebook import Codebook, unit
from recbole_r3vae.sid.sinkhorn import sinkhorn


class Level(nn.Module):
    """A codebook and a rule that rates its codewords; subclasses give the rule.

    Args:
        codebook: Codewords ``[K, d]``.
    """

    def __init__(self, codebook: Codebook):
        super().__init__()
        self.codebook = codebook

    def rating(self, x: Tensor) -> Tensor:
        """How well every codeword suits every residual.

        Args:
            x: Residuals ``[B, d]``.

        Returns:
            ``[B, K]``, larger is better. A residual's code is the position of its largest rating, the
            lowest of equal ones.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise residuals.

        Args:
            x: Residuals ``[B, d]``.

        Returns:
            Codes ``[B]`` and quantised vectors ``q`` ``[B, d]``; the next level gets ``x - q``.
        """
        raise NotImplementedError

    def initialise(self, x: Tensor, iterations: int, seed: int) -> None:
        """Start from k-means of what this level will quantise.

        Args:
            x: ``[n, d]`` with ``n >= K``.
            iterations: Lloyd iterations.
            seed: Of k-means.
        """
        self.codebook.initialise(x, iterations, seed)


class NearestNeighbour(Level):
    """Plain vector quantisation: the nearest codeword, by Euclidean distance, stands for the residual.

    The choice has no gradient; see ``estimator`` of :class:`~.residual.ResidualQuantizer`.
    """

    def rating(self, x: Tensor) -> Tensor:
        codewords = self.codebook.weight
        # -||x - c||^2. ||x||^2 changes no code, but two residuals can compare how near a codeword they are.
        return 2 * x @ codewords.T - codewords.square().sum(-1) - x.square().sum(-1, keepdim=True)  # [B, K]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            codes = self.rating(x).argmax(-1)  # [B]
        return codes, self.codebook(codes)  # [B, d]


class SinkhornNearestNeighbour(NearestNeighbour):
    """Nearest neighbour whose training batches are spread evenly over the codes.

    While training, a batch is assigned by the largest shares in a plan in which no code gets more than its
    share (:func:`~recbole_r3vae.sid.sinkhorn.sinkhorn`); otherwise every residual gets its nearest codeword.
    LC-Rec and LETTER (arXiv 2405.07314) do this at the last level, so that fewer items collide.

    Args:
        codebook: Codewords ``[K, d]``.
        epsilon: Of the plan; small values come close to a hard assignment.
        iterations: Of the plan.
    """

    def __init__(self, codebook: Codebook, epsilon: float = 0.003, iterations: int = 100):
        super().__init__(codebook)
        self.epsilon = epsilon
        self.iterations = iterations

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            codes = sinkhorn(-self.rating(x), self.epsilon, self.iterations).argmax(-1)  # [B]
        return codes, self.codebook(codes)  # [B, d]


class CosineLevel(Level):
    """A level that rates codewords by their cosine, or dot product, with the residual.

    Args:
        codebook: Codewords ``[K, d]``.
        similarity: ``"cosine"`` or ``"dot"``.
    """

    def __init__(self, codebook: Codebook, similarity: str = "cosine"):
        super().__init__(codebook)
        self.similarity = similarity

    def rating(self, x: Tensor) -> Tensor:
        if self.similarity == "dot":
            return x @ self.codebook.weight.T  # [B, K]
        return unit(x) @ unit(self.codebook.weight).T  # [B, K]


class NearestDirection(CosineLevel):
    """The codeword of the largest cosine stands for the vector, at its own length: whatever scale the vectors have, codes stay in use.

    MMQ's rule (arXiv 2508.15281). The choice has no gradient, as that of :class:`NearestNeighbour`.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            codes = self.rating(x).argmax(-1)  # [B]
        return codes, self.codebook(codes)  # [B, d]


class Top1Rating(CosineLevel):
    r"""The best-rated codeword's direction, scaled by its rating.

    With :math:`u = c_{k^*} / \|c_{k^*}\|` and :math:`k^* = \arg\max_k \cos(e, c_k)`,

    .. math:: q = \cos(e, u)\, \|e\|\, u = (e \cdot u)\, u,

    the orthogonal projection of the residual on that direction. The gradient reaches both the residual and
    the codeword through the rating; nothing is estimated.

    Args:
        codebook: Codewords ``[K, d]``.
        similarity: ``"cosine"``, or ``"dot"``: the rating is ``e . c``, so that a codeword's length acts as
            a gain.
        scale_by_norm: ``False`` leaves out ``||e||``, the form of RecBoard's reimplementation. Not for
            ``"dot"``.
    """

    def __init__(self, codebook: Codebook, similarity: str = "cosine", scale_by_norm: bool = True):
        super().__init__(codebook, similarity)
        self.scale_by_norm = scale_by_norm

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            codes = self.rating(x).argmax(-1)  # [B]
        codeword = self.codebook(codes)  # [B, d]
        direction = unit(codeword)
        if self.similarity == "dot":
            scale = (x * codeword).sum(-1, keepdim=True)
        elif self.scale_by_norm:
            scale = (x * direction).sum(-1, keepdim=True)
        else:
            scale = (unit(x) * direction).sum(-1, keepdim=True)
        return codes, scale * direction  # [B, 1] * [B, d]


class SoftmaxRating(CosineLevel):
    r"""A mixture of all codewords, weighted by the softmax of their ratings.

    .. math:: w = \mathrm{softmax}_k(s_k / \tau), \qquad q = \sum_k w_k c_k

    Args:
        codebook: Codewords ``[K, d]``.
        similarity: ``"cosine"`` or ``"dot"``: what ``s`` is.
        temperature: :math:`\tau`. At 1 the weights of a few hundred codewords are almost equal: codes carry
            little.
    """

    def __init__(self, codebook: Codebook, similarity: str = "cosine", temperature: float = 0.1):
        super().__init__(codebook, similarity)
        self.temperature = temperature

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rating = self.rating(x)  # [B, K]
        weights = torch.softmax(rating / self.temperature, dim=-1)
        return rating.argmax(-1), weights @ self.codebook.weight  # [B], [B, d]
