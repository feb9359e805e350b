"""The three jobs on shards: vectors of items, semantic IDs of items, recommendations for histories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbole_r3vae.data.content import ItemEncoder, ModalityEncoders, load_encoder, parts_of
from recbole_r3vae.data.content.encoders import SentenceTransformerEncoder
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start.semantic_ids import ENCODER, load_tokenizer
from recbole_r3vae.serve.files import parquet_schema, split_ids
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.serve.sharded.folder import ShardFolder
from recbole_r3vae.serve.sharded.shards import VECTOR, Shard, columns_of, read_columns, read_records, read_vectors, text_of

Work = Callable[[Shard], dict[str, Any]]


def vector_table(item_ids: Sequence[str], vectors: np.ndarray, codes: np.ndarray | None = None) -> Any:
    """A pyarrow table: ``item_id``; ``sid_1`` … where there are codes ``[m, L]``; ``vector``, lists of d float32."""
    import pyarrow

    vectors = np.ascontiguousarray(vectors, dtype=np.float32)  # [m, d]
    columns: dict[str, Any] = {"item_id": pyarrow.array(item_ids, pyarrow.string())}
    if codes is not None:
        columns |= {f"sid_{level + 1}": pyarrow.array(codes[:, level], pyarrow.int32()) for level in range(codes.shape[1])}
    columns[VECTOR] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), vectors.shape[1])
    return pyarrow.table(columns)


@dataclass(frozen=True)
class Embed:
    """Texts of items to unit vectors.

    Attributes:
        folder: where the vectors go.
        encoder: folder of a fitted encoder, see :func:`~recbole_r3vae.data.content.load_encoder`; or a sentence encoder's name.
        fields: of a sentence encoder, the columns that are joined to a text; empty where the encoder knows its own.
        id_field: column of the ids.
        device: of a sentence encoder; ``None`` leaves it to sentence-transformers.
    """

    folder: ShardFolder
    encoder: str
    fields: tuple[str, ...] = ()
    id_field: str = "item_id"
    device: str | None = None

    @property
    def uses_gpu(self) -> bool:
        """A sentence encoder does."""
        return bool(self.fields) and self.device != "cpu"

    def open(self) -> Work:
        """Load the encoder."""
        encoder: ItemEncoder | ModalityEncoders
        encoder = ItemEncoder(SentenceTransformerEncoder(self.encoder, self.device), self.fields) if self.fields else load_encoder(self.encoder)

        def work(shard: Shard) -> dict[str, Any]:
            blocks = ((ids, encoder.encode(records)) for ids, records in read_records(shard, self.id_field, encoder.fields))
            return {"rows": self.folder.write(shard.number, (vector_table(*block) for block in blocks))}

        return work


@dataclass(frozen=True)
class Tokenize:
    """Items to the codes that the tokenizer gives them, whoever else has these, and their unit vectors.

    Attributes:
        folder: where they go.
        tokenizer: its folder.
        named: the class of a tokenizer from outside the package.
        id_field: column of the ids.
    """

    folder: ShardFolder
    tokenizer: str
    named: str | None = None
    id_field: str = "item_id"
    uses_gpu = False  # a tokenizer that is read from its folder works on the CPU

    def open(self) -> Work:
        """Load the tokenizer and, where it has one, its text encoder."""
        import torch

        tokenizer = load_tokenizer(Path(self.tokenizer), named=self.named)
        has_encoder, dim = (Path(self.tokenizer) / ENCODER).is_dir(), tokenizer.model.dim
        encoder = load_encoder(Path(self.tokenizer) / ENCODER) if has_encoder else None
        parts = parts_of(tokenizer.description["content"], dim)

        def blocks(shard: Shard) -> Iterator[tuple[list[str], np.ndarray]]:
            if VECTOR in columns_of(shard):
                yield from read_vectors(shard, dim, parts, self.id_field)
            elif encoder is not None:
                yield from ((ids, encoder.encode(records)) for ids, records in read_records(shard, self.id_field, encoder.fields))
            else:
                raise UserError(
                    f"the tokenizer in {self.tokenizer} was trained on vectors from a file and has no text encoder; {shard.path} needs a column "
                    f"{VECTOR!r}"
                )

        def work(shard: Shard) -> dict[str, Any]:
            def tables() -> Iterator[Any]:
                for ids, x in blocks(shard):
                    x = np.asarray(x, dtype=np.float32)  # [m, d]
                    yield vector_table(ids, x, tokenizer.model.tokenize(torch.from_numpy(x)).numpy())

            return {"rows": self.folder.write(shard.number, tables())}

        return work


@dataclass(frozen=True)
class Recommend:
    """Histories, or users of the run's dataset, to their best items.

    Attributes:
        folder: where the recommendations go.
        checkpoint: a run's folder or its ``best.pth``.
        settings: keys to set differently.
        topk, batch_size, exclude_seen, as_of: as of :meth:`~recbole_r3vae.serve.recommender.Recommender.recommend`.
        add: ``.sid`` files of new items.
        remove, allow: item ids; ``None`` allows all.
        users: whether a shard is one of the dataset's users.
    """

    folder: ShardFolder
    checkpoint: str
    settings: dict[str, Any] = field(default_factory=dict)
    topk: int = 10
    batch_size: int = 256
    exclude_seen: bool = False
    as_of: str = "now"
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    users: bool = False

    @property
    def uses_gpu(self) -> bool:
        """Where the device is not said to be a CPU."""
        return self.settings.get("device") != "cpu"

    def recommender(self) -> Recommender:
        """The model with all items that came and without those that went."""
        recommender = Recommender(self.checkpoint, dict(self.settings))
        for path in self.add:
            recommender.add_items(path)
        if self.remove:
            recommender.remove_items(self.remove)
        return recommender

    def open(self) -> Work:
        """Load the model."""
        recommender = self.recommender()
        row_of = recommender.served.row_of
        users = recommender.users.users(self.as_of) if self.users else []

        def work(shard: Shard) -> dict[str, Any]:
            if self.users:
                label, pairs = "user", recommender.histories_of(users[shard.start : shard.stop], self.as_of)
            else:
                label, pairs = read_histories(shard, row_of)
            some_known = all_read = False

            def seen() -> Iterator[tuple]:
                nonlocal some_known, all_read
                for pair in pairs:
                    some_known = some_known or any(item in row_of for item in pair[1])
                    yield pair
                all_read = True

            def write(these: Iterator[tuple]) -> int:
                how = (self.topk, label, self.users, self.exclude_seen, self.allow, self.batch_size)
                return self.folder.write(shard.number, map(_recommendations, recommender.stream(these, *how, warn=False)))

            try:
                rows, skipped = write(seen()), recommender.skipped
            except UserError:
                if some_known or not all_read:
                    raise
                skipped = recommender.skipped
                rows = write(iter(()))  # no item of this shard is known, which of one shard is no mistake
            return {"rows": rows, "skipped": vars(skipped)}

        return work


def read_histories(shard: Shard, known: Any) -> tuple[str, Iterator[tuple[str | int, list[str]]]]:
    """Histories of a Parquet shard: column ``history``, a list of item ids or a text of them; and perhaps ``user``.

    Args:
        shard: of a Parquet file.
        known: the item ids that exist, see :func:`~recbole_r3vae.serve.files.split_ids`.

    Returns:
        What the rows are called, ``"user"`` or ``"row"`` (numbered from 0 over all shards), and an iterator of pairs of name and item ids.
    """
    if shard.group is None:
        raise UserError(f"{shard.path} holds vectors; histories are Parquet with a column 'history'")
    has_user = "user" in columns_of(shard)

    def rows() -> Iterator[tuple[str | int, list[str]]]:
        row = shard.before
        for batch in read_columns(shard, ["history", *(["user"] if has_user else [])]):
            names = text_of(batch.column(1)) if has_user else range(row, row + len(batch))
            for name, cell in zip(names, batch.column(0).to_pylist()):
                yield name, split_ids(cell, known) if isinstance(cell, str) else [str(item) for item in cell or ()]
            row += len(batch)

    return ("user" if has_user else "row"), rows()


def _recommendations(frame: Any) -> Any:
    """A pyarrow table of a recommender's."""
    import pyarrow

    return pyarrow.Table.from_pandas(frame, parquet_schema(frame), preserve_index=False)
