"""Items as training data: what a tokenizer sees of them, and the loader through which RecBole trains it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from tqdm import tqdm

from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.data.content.cache import hash_json
from recbole_r3vae.errors import UserError

ITEM_ID = "item_id"
ITEM_EMB = "item_emb"
ITEM_CF = "item_cf"
ITEM_POPULARITY = "item_popularity"
ITEM_CATEGORIES = "item_categories"


class ItemVectors:
    """The vectors of all items, of which only the rows asked for are read.

    Args:
        content: The vectors ``[n_items, d]``, in memory, memory-mapped or left in a file; row 0 is the padding item.
        collaborative: Collaborative embeddings ``[n_items, d']``, float32, for tokenizers that use
            interactions; zero where there is none.
        facts: More that training batches hold: name of the field to rows ``[n_items, …]``.

    Attributes:
        content: As given.
        collaborative: As given.
        facts: As given.
        embeddings: ``content.embeddings``, ``[n_items, d]``, float32 or float16, perhaps left in a file.
        item_ids: External item id of each row.
        parts: Name of each modality to its columns: ``x[:, items.parts["image"]]`` of vectors ``[B, d]`` are those of the images.
        n_items: Number of rows, the padding row included.
        dim: d.
    """

    def __init__(
        self, content: ItemContent, collaborative: np.ndarray | None = None, facts: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.content = content
        self.facts = dict(facts or {})
        self.collaborative = collaborative
        self.embeddings = content.embeddings
        self.item_ids = content.item_ids
        self.parts = content.parts
        self.n_items, self.dim = content.embeddings.shape

    def gather(self, rows: np.ndarray | torch.Tensor) -> np.ndarray:
        """The vectors of given rows.

        Args:
            rows: int64 ``[m]``, in any order.

        Returns:
            float32 ``[m, d]``, a copy.
        """
        return np.asarray(self.embeddings[np.asarray(rows)], dtype=np.float32)

    def sample(self, n: int, seed: int) -> np.ndarray:
        """Vectors of random different items, for instance to start k-means from.

        Args:
            n: How many; all items when there are not that many.
            seed: Same seed, same items.

        Returns:
            float32 ``[min(n, n_items - 1), d]``, in row order, without the padding row.
        """
        size = min(n, self.n_items - 1)
        rows = 1 + np.random.default_rng(seed).choice(self.n_items - 1, size=size, replace=False)
        return self.gather(np.sort(rows))  # sorted: a memory map is read from front to back

    def drawn(self, n: int, seed: int) -> ItemVectors:
        """Random different items as a catalogue of their own, whose vectors are in memory.

        Args:
            n: How many.
            seed: Same seed, same items.

        Returns:
            The items in row order, below the padding item; itself where there are not more than ``n``.
        """
        if n >= self.n_items - 1:
            return self
        rows = np.sort(1 + np.random.default_rng(seed).choice(self.n_items - 1, size=n, replace=False))
        rows = np.concatenate([[0], rows])  # row 0 is the padding item
        content = replace(
            self.content,
            embeddings=np.asarray(self.embeddings[rows]),
            item_ids=[self.item_ids[row] for row in rows],
            content_hash=hash_json([self.content.content_hash, n, seed]),
        )
        collaborative = None if self.collaborative is None else self.collaborative[rows]
        return ItemVectors(content, collaborative, {name: values[rows] for name, values in self.facts.items()})

    def batches(
        self, batch_size: int, show_progress: bool = False
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All items but the padding one, in row order.

        Args:
            batch_size: Rows at a time.
            show_progress: Show a progress bar.

        Yields:
            Rows int64 ``[m]`` and their vectors float32 ``[m, d]``.
        """
        starts = range(1, self.n_items, batch_size)
        for start in tqdm(starts, desc="Items", ncols=100, disable=not show_progress):
            rows = torch.arange(start, min(start + batch_size, self.n_items))
            yield rows, torch.from_numpy(self.gather(rows))


class ItemDataLoader:
    """Batches of items for RecBole's ``Trainer``.

    A batch is an ``Interaction`` of ``item_id`` int64 ``[B]`` and ``item_emb`` float32 ``[B, d]``, and, where
    the items have collaborative embeddings, ``item_cf`` float32 ``[B, d']``, and their facts by name. No item comes twice in an epoch.

    All randomness comes from :attr:`generator`, at the start of each epoch. Saving and restoring its state
    makes the batches of a resumed run those of an uninterrupted one.

    A last batch of a single item, on which in-batch statistics are undefined, joins the batch before it.

    Args:
        items: The items; the padding row is never in a batch.
        config: Reads ``train_batch_size``, ``seed`` and ``ITEM_ID_FIELD``.
        shuffle: A new random order for every epoch; otherwise row order.

    Attributes:
        generator: ``torch.Generator``, seeded with ``config["seed"]``.
        shuffle: As given.
        dataset: The counts that RecBole's ``Collector`` asks a training set for.

    Raises:
        UserError: ``train_batch_size`` is not a positive whole number.
    """

    def __init__(self, items: ItemVectors, config: Any, shuffle: bool = True) -> None:
        batch_size = config["train_batch_size"]
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"train_batch_size is {batch_size!r}; it must be a positive whole number")
        self.items = items
        self.shuffle = shuffle
        self.generator = torch.Generator()
        self.generator.manual_seed(config["seed"])
        self.dataset = ItemCatalogue(items.n_items, config["ITEM_ID_FIELD"])
        self._groups: torch.Tensor | None = None
        starts = list(range(0, items.n_items - 1, batch_size))
        if batch_size > 1 and len(starts) > 1 and items.n_items - 1 - starts[-1] == 1:
            starts.pop()
        self._bounds = [*starts, items.n_items - 1]

    def set_groups(self, groups: torch.Tensor | None) -> None:
        """From the next epoch on, keep the items of a group together in a batch.

        In-batch regularisers on deep code levels need items that share a prefix, which random batches hardly
        have. The groups come one after the other in random order, the items in random order within each, and
        the line is cut into batches: only the groups at the two ends of a batch can be shared with its
        neighbours.

        Args:
            groups: int64 ``[n_items]``, the group of each item, e.g. its code at the first level; the value
                of the padding row does not matter. ``None`` undoes the grouping.

        Raises:
            ValueError: another shape.
        """
        if groups is not None:
            if groups.shape != (self.items.n_items,):
                raise ValueError(f"groups have shape {list(groups.shape)}, expected [{self.items.n_items}]")
            _, groups = groups[1:].cpu().unique(return_inverse=True)  # [n_items - 1], numbered from 0
        self._groups = groups

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[Interaction]:
        rows = 1 + self._order()
        for start, end in zip(self._bounds, self._bounds[1:]):
            batch = rows[start:end]  # [B]
            fields = {ITEM_ID: batch, ITEM_EMB: torch.from_numpy(self.items.gather(batch))}
            if self.items.collaborative is not None:
                fields[ITEM_CF] = torch.from_numpy(self.items.collaborative[batch.numpy()])
            fields |= {name: torch.from_numpy(values[batch.numpy()]) for name, values in self.items.facts.items()}
            yield Interaction(fields)

    def _order(self) -> torch.Tensor:
        """This epoch's order of the items, which count from 0 here; int64 ``[n_items - 1]``."""
        order = self._permutation(self.items.n_items - 1)
        if self._groups is None:
            return order
        rank = self._permutation(int(self._groups.max()) + 1)  # [groups]: when the group's turn comes
        return order[rank[self._groups[order]].argsort(stable=True)]  # stable: order within a group stays

    def _permutation(self, n: int) -> torch.Tensor:
        return torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)


class ItemCatalogue:
    """What RecBole's ``Collector`` asks a training set for, when the set is items and nobody interacted.

    Args:
        n_items: Number of items, padding included.
        item_field: RecBole's name of the item field.

    Attributes:
        item_counter: Interactions of each item; empty.
        user_counter: Interactions of each user; empty.
    """

    def __init__(self, n_items: int, item_field: str) -> None:
        self._n_items, self._item_field = n_items, item_field
        self.item_counter: Counter = Counter()
        self.user_counter: Counter = Counter()

    def num(self, field: str) -> int:
        """Number of ids of a field as RecBole counts them; every other field has its padding id only."""
        return self._n_items if field == self._item_field else 1
