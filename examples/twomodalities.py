"""TwoModalities: the first code says what an item is in all modalities together, each code after it what it is in one.

Codes that are shared between modalities and codes of each of them are the idea of MMQ (arXiv 2508.15281), which learns them with experts
and gates. Here they come from residual k-means, as in QARM (arXiv 2411.11739): level 1 is a centroid of the whole vector; each level after
it is a centroid of what the levels before left of one modality, taken in turn. So a prefix is a cluster, finer in one modality with
every code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.parameters import Whole
from recbole_r3vae.model.tokenizer.base import FittedTokenizer, Quantized
from recbole_r3vae.model.tokenizer.quantize.assign import NearestNeighbour
from recbole_r3vae.model.tokenizer.quantize.codebook import SAMPLES_PER_CODEWORD, Codebook


class TwoModalities(FittedTokenizer):
    """Residual k-means: one level of all modalities, then levels of one modality each, in turn.

    Args:
        config: keys of ``TwoModalities.yaml``.
        items: item content of two modalities or more.

    Attributes:
        columns: the columns of the item vector that each level looks at.

    Raises:
        UserError: content has one modality, or there are not enough levels for all.
    """

    hyperparameters = {"kmeans_iterations": Whole()}

    def __init__(self, config, items):
        super().__init__(config, items)
        parts, sizes = list(items.parts.items()), self.codebook_sizes
        if len(parts) < 2:
            raise UserError(f"item content has one modality, {parts[0][0]}; give another, such as --content_encoder=[tfidf-svd,file]")
        if len(sizes) <= len(parts):
            raise UserError(f"codebook_sizes is {list(sizes)}; give a level for all {len(parts)} modalities together and one for each")
        self.kmeans_iterations = config["kmeans_iterations"]
        self.columns = [slice(0, self.dim), *(parts[level % len(parts)][1] for level in range(len(sizes) - 1))]
        generator = torch.Generator().manual_seed(self.seed)
        widths = [columns.stop - columns.start for columns in self.columns]
        levels = (NearestNeighbour(Codebook(size, width, generator)) for size, width in zip(sizes, widths))
        self.levels = nn.ModuleList(levels).requires_grad_(False)

    def initialise(self, items) -> None:
        """Fit one codebook after the other, to what those before it leave of a sample."""
        super().initialise(items)
        sample = items.sample(SAMPLES_PER_CODEWORD * max(self.codebook_sizes), self.seed)
        residual = torch.from_numpy(sample).to(self.device)  # [n, d], a copy
        for number, (level, columns) in enumerate(zip(self.levels, self.columns)):
            level.initialise(residual[:, columns].contiguous(), self.kmeans_iterations, self.seed + number)
            residual[:, columns] -= level(residual[:, columns])[1]

    def quantize(self, x: Tensor) -> Quantized:
        residual, codes, residuals = x.clone(), [], []
        for level, columns in zip(self.levels, self.columns):
            residuals.append(residual.clone())
            code, codeword = level(residual[:, columns])  # [B], [B, width]
            residual[:, columns] -= codeword
            codes.append(code)
        quantized = x - residual  # [B, d]
        return Quantized(torch.stack(codes, dim=1), quantized, None, residuals, quantized)

    def level_distances(self, x: Tensor, level: int) -> Tensor:
        return -self.levels[level].rating(self.quantize(x).residuals[level][:, self.columns[level]])  # [B, K]
