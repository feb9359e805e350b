"""What the command line asks for: shards in, an engine, a folder of Parquet with a manifest out."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from recbole_r3vae.data.content.encoders import SentenceTransformerEncoder
from recbole_r3vae.data.content.load import load_encoder
from recbole_r3vae.data.fingerprint import data_fingerprint
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write, beside
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.quick_start.run_folder import find_checkpoint
from recbole_r3vae.quick_start.semantic_ids import DESCRIPTION, ENCODER
from recbole_r3vae.serve.batches import Skipped
from recbole_r3vae.serve.sharded.engines import Engine, Job
from recbole_r3vae.serve.sharded.folder import ShardFolder, read_manifest, read_parts
from recbole_r3vae.serve.sharded.jobs import Embed, Recommend, Tokenize, vector_table
from recbole_r3vae.serve.sharded.shards import ROWS, SHARD_ROWS, VECTOR, Shard, shards_of, stamp_of
from recbole_r3vae.serve.tokenize import tokenizer_and_table
from recbole_r3vae.sid.extension import TableExtension
from recbole_r3vae.sid.table import PAD, SemanticIDs

RAW = ".raw"
"""Folder, in that of semantic IDs, of the codes before collisions are resolved."""


def embed_shards(
    items: str | os.PathLike, output: str | os.PathLike, engine: Engine, encoder: str | os.PathLike, fields: Sequence[str] = (),
    shard_rows: int = SHARD_ROWS, device: str | None = None, show_progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Vectors of items' texts.

    Args:
        items: a Parquet file, or a folder of them, with ``item_id`` and columns of text.
        output: the folder to write; columns ``item_id`` and ``vector``.
        engine: who does it.
        encoder: a run or a tokenizer's folder, whose text encoder is used as it is; or, with fields, a sentence encoder's name.
        fields: with a sentence encoder, the columns that are joined to an item's text.
        shard_rows: rows of a shard that is not a row group.
        device: of a sentence encoder.
        show_progress: whether to show a bar.

    Returns:
        The manifest.

    Raises:
        UserError: there is no such encoder, the items do not fit it, or the folder holds other work.
    """
    engine.check()
    where, what = str(encoder), str(encoder)
    if fields:
        what = SentenceTransformerEncoder(where).settings().get("files", what)
    else:
        where = str(_encoder_folder(Path(encoder)))
        load_encoder(where)
        what = _hash_of(*sorted(Path(where).iterdir()))
    shards = shards_of(items, shard_rows)
    folder = ShardFolder(output, "embed", {"encoder": what, "fields": list(fields), "device": device, "input": _stamp(shards)}, shards)
    return _work(Embed(folder, where, tuple(fields), device=device), shards, folder, engine, show_progress)[0]


def tokenize_shards(
    checkpoint: str | os.PathLike, items: str | os.PathLike, output: str | os.PathLike, engine: Engine, policy: str | None = None,
    add: Sequence[str | os.PathLike] = (), shard_rows: int = SHARD_ROWS, tokenizer: str | None = None, show_progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Semantic IDs of new items, as :func:`~recbole_r3vae.serve.tokenize.tokenize_items` gives them.

    The engine computes codes shard by shard. Whoever else has an item's codes is a question about all items, in their order: this process
    answers it at the end, in one pass over codes that are there.

    Args:
        checkpoint, policy, add, tokenizer: as of that function.
        items: Parquet with ``item_id`` and either ``vector`` or the columns of text that the run's encoder reads, or ``.npy`` with
            ``.ids``; a file, or a folder of them.
        output: the folder to write; columns ``item_id``, ``sid_1`` … and ``vector``. :func:`gather` makes a ``.sid`` file of it.
        engine: who does it.
        shard_rows: rows of a shard that is not a row group.
        show_progress: whether to show a bar.

    Returns:
        The manifest, with ``known``, ``moved`` and ``shared`` as of :class:`~recbole_r3vae.serve.tokenize.TokenizedItems`.

    Raises:
        UserError: as that function; or the folder holds other work.
    """
    engine.check()
    trained, table, policy, reading = tokenizer_and_table(Path(checkpoint), policy, tokenizer)
    extension = TableExtension(table, policy)
    shards = shards_of(items, shard_rows)
    settings = {
        "tokenizer": _hash_of(trained.folder / DESCRIPTION), "table": table.content_hash, "policy": policy,
        "add": [_hash_of(path) for path in add], "input": _stamp(shards),
    }  # fmt: skip
    folder = ShardFolder(output, "tokenize", settings, shards)
    raw = ShardFolder(folder.path / RAW, "codes", settings, shards)
    with folder.opened() as complete:
        if not complete:
            job = Tokenize(raw, str(trained.folder), tokenizer, reading.id_field)
            _work(job, shards, raw, engine, show_progress)
            _place(raw, folder, extension, trained, [SemanticIDs.load(path) for path in add], items)
        shutil.rmtree(raw.path, ignore_errors=True)
    return read_manifest(folder.path)


def _place(raw: ShardFolder, folder: ShardFolder, extension: TableExtension, trained: Any, earlier: Sequence[SemanticIDs], items: Any) -> None:
    """Resolve the collisions of all shards in their order, and write the finished parts."""
    table, seen, known = extension.table, set(), 0
    old = set(table.item_ids)
    for sids in earlier:
        extension.occupy(sids.item_ids[1:], sids.codes[1:])
        old.update(sids.item_ids)
    extension.shared = 0  # among the new items only

    def placed(part: Any) -> Iterator[Any]:
        nonlocal known
        yield vector_table([], np.zeros((0, trained.model.dim)), np.zeros((0, table.n_levels), dtype=np.int64))
        for start in range(0, part.num_rows, ROWS):
            names, codes, x = _rows_of(part.slice(start, ROWS))
            twice = next((name for name in names if name in seen or seen.add(name)), None)
            if twice is not None:
                raise UserError(f"{items}: item {twice!r} comes twice; give every item once")
            new = [row for row, name in enumerate(names) if name not in old]
            known += len(names) - len(new)
            if new:
                names, codes, x = [names[row] for row in new], codes[new], x[new]

                @torch.no_grad()
                def distances(row: int, x: np.ndarray = x) -> torch.Tensor:
                    one = torch.from_numpy(x[row : row + 1]).to(trained.model.device)
                    return trained.model.level_distances(one, trained.raw.n_levels - 1)[0].cpu()

                yield vector_table(names, x, extension.place(names, torch.from_numpy(codes), distances).numpy())

    for number, part in enumerate(read_parts(raw.path)):
        folder.write(number, placed(part))
    if len(seen) == known:
        raise UserError(f"all {known} items of {items} have semantic IDs already; there is nothing to tokenize")
    meta = {"tokenizer": trained.description["name"], "collision_policy": extension.policy, "extends": table.content_hash}
    sids = {"codebook_sizes": list(table.codebook_sizes), "ordered": table.ordered, "meta": meta}
    folder.finish(known=known, moved=extension.moved, shared=extension.shared, semantic_ids=sids)


def _rows_of(table: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, codes int64 ``[m, L]`` and vectors float32 ``[m, d]`` of a table of :func:`~.jobs.vector_table`."""
    levels = [name for name in table.column_names if name.startswith("sid_")]
    codes = np.stack([table[name].to_numpy() for name in levels], axis=1).astype(np.int64)
    vectors = table[VECTOR].combine_chunks().flatten().to_numpy()
    return table["item_id"].to_pylist(), codes, np.array(vectors.reshape(-1, table.schema.field(VECTOR).type.list_size))


def gather(folder: str | os.PathLike, output: str | os.PathLike) -> SemanticIDs:
    """A ``.sid`` file of a folder of semantic IDs, and ``.npy`` and ``.ids`` beside it, as ``recommend --add`` reads them.

    Args:
        folder: what :func:`tokenize_shards` wrote.
        output: the ``.sid`` file.

    Raises:
        UserError: the folder holds something else, or is incomplete.
    """
    manifest = read_manifest(folder)
    if manifest["complete"] and "semantic_ids" not in manifest:  # an incomplete folder is refused where it is read
        raise UserError(f"{folder} holds the shards of {manifest['command']}, not semantic IDs; give a complete folder of tokenize")
    names, codes = [PAD], []
    with atomic_write(beside(output, ".npy"), "wb") as file:
        for part in read_parts(folder):
            ids, own, vectors = _rows_of(part)
            if not codes:
                header = {"descr": "<f4", "fortran_order": False, "shape": (manifest["rows"], vectors.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(vectors.data)
            names += ids
            codes.append(own)
    kind = manifest["semantic_ids"]
    padding = np.full((1, len(kind["codebook_sizes"])), -1)
    sids = SemanticIDs(torch.from_numpy(np.concatenate([padding, *codes])), tuple(kind["codebook_sizes"]), names, kind["meta"], kind["ordered"])
    with atomic_write(beside(output, ".ids")) as file:
        file.writelines(f"{name}\n" for name in names[1:])
    sids.save(output)  # last: what it needs is there
    return sids


def recommend_shards(
    checkpoint: str | os.PathLike, output: str | os.PathLike, engine: Engine, histories: str | os.PathLike | None = None,
    shard_rows: int = SHARD_ROWS, show_progress: bool = False, **how: Any,
) -> dict[str, Any]:  # fmt: skip
    """Recommendations for histories, or for all users of the run's dataset.

    Args:
        checkpoint: a run's folder or its ``best.pth``.
        output: the folder to write; columns as of :meth:`~recbole_r3vae.serve.recommender.Recommender.recommend`.
        engine: who does it.
        histories: Parquet with a column ``history``, a list of item ids or a text of them, and perhaps ``user``; default: all users.
        shard_rows: users of a shard.
        show_progress: whether to show a bar.
        how: other attributes of :class:`~.jobs.Recommend`.

    Returns:
        The manifest.

    Raises:
        UserError: as a recommender; or the folder holds other work.
    """
    engine.check()
    job = Recommend(None, str(checkpoint), users=histories is None, **how)
    recommender = job.recommender()  # refuses here what no worker could do
    settings = {key: value for key, value in vars(job).items() if key not in ("folder", "checkpoint", "add")}
    settings |= {"checkpoint": _hash_of(find_checkpoint(checkpoint)), "add": [_hash_of(path) for path in job.add]}
    if histories is None:
        n = len(recommender.users.users(job.as_of))
        pieces = [(start, min(start + shard_rows, n)) for start in range(0, n, shard_rows)]
        shards = [Shard(number, "users", start, stop, start) for number, (start, stop) in enumerate(pieces)]
        settings["data"] = data_fingerprint(create_dataset(recommender.config))
    else:
        shards = shards_of(histories)
        settings["input"] = _stamp(shards)
    folder = ShardFolder(output, "recommend", settings, shards)
    manifest, reports = _work(replace(job, folder=folder), shards, folder, engine, show_progress)
    skipped = Skipped()
    for report in reports:
        for key, value in report["skipped"].items():
            setattr(skipped, key, getattr(skipped, key) or value if key == "example" else getattr(skipped, key) + value)
    skipped.warn()
    if not manifest["rows"]:
        raise UserError(f"no recommendation came of {histories}: the checkpoint knows none of its items; write the ids as in the dataset")
    return manifest


def _work(
    job: Job, shards: Sequence[Shard], folder: ShardFolder, engine: Engine, show_progress: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Do what is left of a job; the manifest, and the reports of what was done now."""
    reports = []
    with folder.opened() as complete:
        if complete:
            return read_manifest(folder.path), reports
        left = [shard for shard in shards if folder.rows_of(shard.number) is None]
        bar = tqdm(total=len(shards), initial=len(shards) - len(left), desc=folder.command, unit=" shards", ncols=100, disable=not show_progress)
        with bar, closing(engine.run(job, left)) as done:
            for _, report in done:
                reports.append(report)
                bar.update()
        return folder.finish(), reports


def _encoder_folder(path: Path) -> Path:
    """Of a tokenizer's folder, or of the tokenizer beside a run's checkpoint."""
    if not (path / DESCRIPTION).is_file():
        path = find_checkpoint(path).parent / "tokenizer"
    if not path.is_dir():
        raise UserError(f"there is no {path}: its semantic IDs came from a file, or it was packed; give the run that it was packed from")
    if not (path / ENCODER).is_dir():
        raise UserError(f"{path} has no text encoder: its vectors came from a file; give them to tokenize as they are")
    return path / ENCODER


def _stamp(shards: Sequence[Shard]) -> str:
    return hashlib.sha256(repr(stamp_of(shards)).encode()).hexdigest()[:16]


def _hash_of(*paths: str | os.PathLike) -> str:
    """Of files' bytes."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
