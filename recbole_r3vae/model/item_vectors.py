"""What a model knows an item by: its codes, its content, its id, and the sum of these as one vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.model.contract import Sources

CODES, TEXT, ID = "codes", "text", "id"
"""What an item may be read by; other names are modalities of item content, as text is."""

MERGES = ("concat", "sum")
"""How the embeddings of an item's codes become one vector: side by side through a linear layer, or added up."""


class ItemInputs:
    """Parameter of :mod:`~recbole_r3vae.model.parameters`: ``codes``, ``id`` and modalities of item content, each once."""

    def takes(self, value: Any) -> bool:
        named = isinstance(value, (list, tuple)) and all(isinstance(entry, str) and entry for entry in value)
        return named and len(set(value)) == len(value) > 0

    def expected(self) -> str:
        return f"a list of some of {CODES}, {TEXT}, {ID} and other modalities of item content, such as [{CODES}, {TEXT}]"


def modalities(item_inputs: list[str]) -> tuple[str, ...]:
    """Those of ``item_inputs`` that are modalities of item content."""
    return tuple(name for name in item_inputs if name not in (CODES, ID))


def copied(vectors: Any) -> Tensor:
    """Vectors as a float32 tensor of its own: where they come from may be a read-only file."""
    return torch.from_numpy(np.array(vectors, dtype=np.float32))


class KeepsVectors(nn.Module):
    """A part of a model's class: the vectors of all items, computed once while nothing is trained.

    A subclass says :meth:`all_vectors`. What was kept is forgotten when the model is trained, loaded or moved; who changes items or
    weights otherwise calls :meth:`forget`.
    """

    _vectors: Tensor | None = None

    def all_vectors(self) -> Tensor:
        """Vectors of all items ``[n_items, d]``."""
        raise NotImplementedError

    def kept_vectors(self) -> Tensor:
        """The same; in evaluation those of the first call."""
        if self.training:
            return self.all_vectors()
        if self._vectors is None:
            self._vectors = self.all_vectors()
        return self._vectors

    def forget(self) -> None:
        """Compute them anew next time."""
        self._vectors = None

    def train(self, mode: bool = True) -> KeepsVectors:
        """As of any module."""
        self.forget()
        return super().train(mode)

    def load_state_dict(self, *given: Any, **named: Any) -> Any:
        """As of any module."""
        self.forget()
        return super().load_state_dict(*given, **named)

    def _apply(self, *given: Any, **named: Any) -> KeepsVectors:
        self.forget()
        return super()._apply(*given, **named)


class ItemVectors(nn.Module):
    """Vectors of items: the sum of what ``item_inputs`` names.

    Args:
        item_inputs: ``codes``, ``id`` and names of modalities of item content.
        merge: one of :data:`MERGES`.
        size: width d.
        n_items: the padding item included.
        sources: semantic IDs, if there are any, and the content of the modalities.
        content_inner_size: width of a hidden layer between content and d; 0 for a linear layer alone.
        code_dropout: share of the codes that training hides, in :meth:`forward`.
        id_dropout: likewise of the ids.
    """

    def __init__(
        self,
        item_inputs: list[str],
        merge: str,
        size: int,
        n_items: int,
        sources: Sources,
        content_inner_size: int = 0,
        code_dropout: float = 0.0,
        id_dropout: float = 0.0,
    ):
        super().__init__()
        self.item_inputs, self.merge, self.code_dropout, self.id_dropout = list(item_inputs), merge, code_dropout, id_dropout
        self.n_items, sids = n_items, sources.semantic_ids
        if sids is not None:
            self.code_embedding = nn.Embedding(sids.n_tokens, size, padding_idx=0)
        if CODES in self.item_inputs and merge == "concat":
            self.code_projection = nn.Linear(sids.n_levels * size, size)
        if modalities(self.item_inputs):
            self.register_buffer("content", copied(sources.content.embeddings), persistent=False)  # [n_items, D]
            width = self.content.shape[1]  # of whichever modalities these are
            self.content_projection = nn.Linear(width, size)
            if content_inner_size:
                inner = nn.Linear(width, content_inner_size), nn.GELU(), nn.Linear(content_inner_size, size)
                self.content_projection = nn.Sequential(*inner)
        if ID in self.item_inputs:
            self.id_embedding = nn.Embedding(n_items, size, padding_idx=0)
        self.know(sources)

    def know(self, sources: Sources) -> None:
        """Take the codes of ``sources``, of which there are as many as items."""
        if sources.semantic_ids is None:
            return
        self.codebook_sizes = sources.semantic_ids.codebook_sizes
        tokens = sources.semantic_ids.tokens().to(self.code_embedding.weight.device)
        self.register_buffer("tokens", tokens, persistent=False)  # [n_items, L], row 0 is 0
        items_of_token = tokens.flatten().argsort(stable=True) // tokens.shape[1]  # items, those of token 0 first
        bounds = torch.bincount(tokens.flatten(), minlength=self.code_embedding.num_embeddings).cumsum(0)
        self.register_buffer("items_of_tokens", items_of_token, persistent=False)  # [n_items * L]
        self.register_buffer("first_item", torch.cat([bounds.new_zeros(1), bounds[:-1]]), persistent=False)  # [n_tokens]

    def forward(self, items: Tensor, hide: bool = True) -> Tensor:
        """Vectors of items ``[M]``, in training with codes and ids hidden at random unless ``hide`` is False: ``[M, d]``."""
        inputs, hide = [], hide and self.training
        if CODES in self.item_inputs:
            tokens = self.tokens[items]  # [M, L]
            if hide and self.code_dropout:
                tokens = tokens * (torch.rand(tokens.shape, device=tokens.device) >= self.code_dropout)
            inputs.append(self._merged(tokens))
        if modalities(self.item_inputs):
            inputs.append(self.content_projection(self.content[items]))
        if ID in self.item_inputs:
            if hide and self.id_dropout:
                items = items * (torch.rand(items.shape, device=items.device) >= self.id_dropout)
            inputs.append(self.id_embedding(items))
        return sum(inputs)

    def _merged(self, tokens: Tensor) -> Tensor:
        if self.merge == "concat":
            return self.code_projection(self.code_embedding(tokens).flatten(1))
        return F.embedding_bag(tokens, self.code_embedding.weight, mode="sum", padding_idx=0)

    def catalogue(self, of_codes: Tensor | None = None) -> Tensor:
        """Vectors of all items ``[n_items, d]``, nothing hidden; row 0 is of no item.

        Args:
            of_codes: what the codes of all items say ``[n_items, d]``, where that is at hand; default: the sum of their embeddings.
        """
        inputs = []
        if of_codes is not None:
            inputs.append(of_codes)
        elif CODES in self.item_inputs and self.merge == "sum":
            inputs.append(_SumOfCodes.apply(self.code_embedding.weight, self.tokens, self.items_of_tokens, self.first_item))
        elif CODES in self.item_inputs:
            inputs.append(self._merged(self.tokens))
        if modalities(self.item_inputs):
            inputs.append(self.content_projection(self.content))
        if ID in self.item_inputs:
            inputs.append(self.id_embedding.weight)
        return sum(inputs)

    def code_table(self) -> Tensor | None:
        """Vectors of tokens ``[n_tokens, d]`` whose sum over an item's tokens is its vector in :meth:`catalogue`; ``None`` where an item is
        more than its codes."""
        if self.item_inputs != [CODES]:
            return None
        weight = self.code_embedding.weight  # [n_tokens, d]
        if self.merge == "sum":
            return weight
        # A linear layer over codes side by side is a sum of one layer a level; the first level's tokens take the bias.
        layers = self.code_projection.weight.split(weight.shape[1], dim=1)  # L of [d, d]
        levels = weight[1:].split(list(self.codebook_sizes))  # L of [K, d], after the padding token
        parts = [codes @ layer.T for codes, layer in zip(levels, layers, strict=True)]
        return torch.cat([torch.zeros_like(weight[:1]), parts[0] + self.code_projection.bias, *parts[1:]])

    @torch.no_grad()
    def grow(self, sources: Sources) -> None:
        """Know more items: theirs are the codes and the content of ``sources``; their id embedding is zero, as a hidden one."""
        known = sources.semantic_ids if sources.semantic_ids is not None else sources.content
        n_old, self.n_items = self.n_items, len(known.item_ids)
        if modalities(self.item_inputs):
            new = copied(sources.content.embeddings[n_old:]).to(self.content.device)
            self.content = torch.cat([self.content, new])  # what it was trained with stays as it was
        if ID in self.item_inputs:
            weight = F.pad(self.id_embedding.weight, (0, 0, 0, self.n_items - n_old))  # [n_items, d]
            self.id_embedding = nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=0)
        self.know(sources)


class _SumOfCodes(torch.autograd.Function):
    """The sum of the embeddings of every item's codes.

    A token's gradient is the sum of those of the items that have it: a bag of items, as an item is a bag of tokens. Both are read row by
    row, where the gradient of PyTorch's own bag is written row by row, an order of magnitude slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor, items_of_tokens: Tensor, first_item: Tensor) -> Tensor:
        ctx.save_for_backward(items_of_tokens, first_item)
        return F.embedding_bag(tokens, weight, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        items_of_tokens, first_item = ctx.saved_tensors
        of_tokens = F.embedding_bag(items_of_tokens, grad.contiguous(), first_item, mode="sum")  # [n_tokens, d]
        of_tokens[0] = 0  # the padding token's
        return of_tokens, None, None, None
