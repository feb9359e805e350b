"""FinalMLP: two networks over the same fields, each with gates of its own, and what they have to say to each other.

Mao et al., "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", AAAI 2023, arXiv 2304.00902. Each stream weighs the entries of
the embedded fields by a gate (equation 9), an MLP makes a vector of them, and the two vectors are fused by a bilinear form, head by head
(equations 5 and 6). In the paper a gate sees fields that are chosen by hand, here it sees all. RecBole's first-order term is added.

It derives from RecBole's ``ContextRecommender`` alone and knows nothing of semantic IDs: with ``--sid_features=replace`` they are fields
as others are.
"""

from __future__ import annotations

import torch
from recbole.model.abstract_recommender import ContextRecommender
from recbole.model.layers import MLPLayers
from torch import Tensor, nn

from recbole_r3vae.model.parameters import SHARE, ListOf, Whole


class FinalMLP(ContextRecommender):
    """Two gated MLPs with a bilinear fusion.

    Args:
        config: keys of ``FinalMLP.yaml``.
        dataset: training dataset with fields of features and labels.
    """

    hyperparameters = {"embedding_size": Whole(), "mlp_hidden_size": ListOf(Whole()), "n_fusion_heads": Whole(), "dropout_prob": SHARE}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        width, sizes = self.num_feature_field * self.embedding_size, config["mlp_hidden_size"]
        n_heads = config["n_fusion_heads"]
        head_size = -(-sizes[-1] // n_heads)  # rounded up, so that any number of heads fits
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        layers = [width, *sizes[:-1], n_heads * head_size]
        self.streams = nn.ModuleList(MLPLayers(layers, config["dropout_prob"]) for _ in range(2))
        self.linear = nn.ModuleList(nn.Linear(n_heads * head_size, 1) for _ in range(2))
        self.fusion = nn.Parameter(torch.empty(n_heads, head_size, head_size))
        nn.init.xavier_normal_(self.fusion)
        self.loss = nn.BCEWithLogitsLoss()

    def forward(self, interaction) -> Tensor:
        """Logits ``[B]``."""
        x = self.concat_embed_input_fields(interaction).flatten(1)  # [B, fields * d]
        one, other = (stream(2 * torch.sigmoid(gate(x)) * x) for stream, gate in zip(self.streams, self.gates))  # [B, heads * h]
        first_order = self.linear[0](one) + self.linear[1](other) + self.first_order_linear(interaction)  # [B, 1]
        heads = (vector.unflatten(1, self.fusion.shape[:2]) for vector in (one, other))  # [B, heads, h]
        return first_order.squeeze(1) + torch.einsum("bhi,hij,bhj->b", next(heads), self.fusion, next(heads))

    def calculate_loss(self, interaction) -> Tensor:
        """Binary cross-entropy of the labels."""
        return self.loss(self.forward(interaction), interaction[self.LABEL].float())

    def predict(self, interaction) -> Tensor:
        """Probabilities ``[B]``."""
        return torch.sigmoid(self.forward(interaction))
