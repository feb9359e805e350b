"""From public raw files to RecBole's atomic files: ``recbole-r3vae prepare <dataset> --<role> <file>``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_r3vae.data.atomic_files import publish, refuse_to_overwrite, write_interactions, write_rows
from recbole_r3vae.data.raw.amazon import AMAZON
from recbole_r3vae.data.raw.files import RawFile, local_path, zip_members
from recbole_r3vae.data.raw.format import RawFormat
from recbole_r3vae.data.raw.lastfm import LASTFM
from recbole_r3vae.data.raw.mind import MIND
from recbole_r3vae.data.raw.movielens import MOVIELENS
from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.io import temporary_folder

ZIP = "zip"
"""The source that stands for all files of a format that is published as one archive."""

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class DatasetSpec:
    """A data set that can be prepared.

    Args:
        raw: How its files are read.
        kcore: Interactions that every user and every item must have, by default; 0 or 1 keeps all.
    """

    raw: RawFormat
    kcore: int


DATASETS: dict[str, DatasetSpec] = {
    "amazon-beauty": DatasetSpec(AMAZON, kcore=5),  # as TIGER and most others; `_5` dumps are so already
    "amazon-sports": DatasetSpec(AMAZON, kcore=5),
    "amazon-toys": DatasetSpec(AMAZON, kcore=5),
    "amazon-clothing": DatasetSpec(AMAZON, kcore=5),
    "amazon-office": DatasetSpec(AMAZON, kcore=5),
    "ml-1m": DatasetSpec(MOVIELENS, kcore=5),  # SASRec, BERT4Rec: 3,416 of the 3,706 rated films are left
    "lastfm": DatasetSpec(LASTFM, kcore=5),  # S3-Rec: 1,090 users, 3,646 artists, 52,551 first taggings
    "mind-small": DatasetSpec(MIND, kcore=5),  # no protocol is agreed on, see raw/mind.py
}


@dataclass(frozen=True)
class PrepareSummary:
    """What ``prepare`` wrote.

    Args:
        dataset: Name of the data set.
        folder: Where its atomic files are.
        kcore: The k of the k-core filter; 0 or 1 where none was applied.
        n_users, n_items, n_interactions: Counts after the filter.
        n_raw_interactions: Interactions before the filter.
        n_titled_items: Items whose title is not blank.
    """

    dataset: str
    folder: Path
    kcore: int
    n_users: int
    n_items: int
    n_interactions: int
    n_raw_interactions: int
    n_titled_items: int

    @property
    def average_length(self) -> float:
        """Interactions per user."""
        return self.n_interactions / self.n_users

    @property
    def sparsity(self) -> float:
        """Share of user-item pairs without interaction; a repeated one counts each time, as in RecBole."""
        return 1 - self.n_interactions / (self.n_users * self.n_items)

    def __str__(self) -> str:
        core = f"{self.kcore}-core" if self.kcore > 1 else "all"
        return (
            f"{self.dataset}: {self.n_users:,} users, {self.n_items:,} items, {self.n_interactions:,} "
            f"interactions ({core} of {self.n_raw_interactions:,}), {self.average_length:.2f} per user, "
            f"sparsity {self.sparsity:.4%}; {self.n_titled_items:,} items have a title; in {self.folder}"
        )


def prepare(
    dataset: str,
    sources: Mapping[str, Source | Sequence[Source]],
    output: Source = "dataset",
    kcore: int | None = None,
    force: bool = False,
    show_progress: bool = True,
) -> PrepareSummary:
    """Turn public raw files into ``<output>/<dataset>/<dataset>.inter`` and ``.item`` (and ``.user``).

    Interactions keep their real time and the order of the raw file. ``.item`` holds exactly the items of
    ``.inter``; one that the raw files do not describe has blank cells. All files appear together when
    everything has been read, or none does.

    Args:
        dataset: A key of ``DATASETS``, such as ``"amazon-beauty"``.
        sources: Role to path or URL, or to several that are read one after the other. Amazon: ``reviews``,
            ``meta``. ml-1m: ``ratings``, ``movies`` and optionally ``users``. lastfm: ``taggings``,
            ``artists``, ``tags``. mind-small: ``behaviors``, ``news``. Except for Amazon, ``zip`` gives those
            roles that are not named. Downloads are kept in ``<output>/downloads`` and used again.
        output: Folder that holds one folder a data set: RecBole's ``data_path``.
        kcore: Drop users and items with fewer than this many interactions until none is left; 0 or 1 keeps
            all. Default: what the papers use, see ``DATASETS``.
        force: Replace the atomic files of an earlier call; other files in the folder are left alone.
        show_progress: Show progress bars on standard error.

    Returns:
        The counts of what was written.

    Raises:
        UserError: unknown data set or role, missing or unreadable file, malformed line, failed download,
            files that exist already, or nothing left to write.
    """
    if dataset not in DATASETS:
        raise UserError(
            f"unknown dataset {dataset!r}{did_you_mean(dataset, DATASETS)}; prepare knows {', '.join(DATASETS)}, and csv for "
            "tables of your own"
        )
    raw = DATASETS[dataset].raw
    kcore = DATASETS[dataset].kcore if kcore is None else kcore
    if kcore < 0:
        raise UserError(f"kcore is {kcore}; expected 0 (no filter) or more")
    output = Path(output).expanduser()
    folder = output / dataset
    if not force:
        refuse_to_overwrite(folder)

    files = _files(dataset, raw, sources, output / "downloads", show_progress)
    found = raw.read_interactions(files, show_progress)
    user, item = np.asarray(found.user), np.asarray(found.item)  # [n_interactions]
    kept = np.flatnonzero(k_core(user, item, kcore))
    if not len(kept):
        raise UserError(
            f"{dataset}: none of the {len(found):,} interactions is left in the {kcore}-core; lower kcore "
            "(--kcore 0 keeps all) or check that the files are whole"
        )
    users, items = _names(found.users, user[kept]), _names(found.items, item[kept])
    item_rows = raw.read_items(files, items, show_progress)
    if not item_rows:
        described = ", ".join(str(file) for role in raw.roles for file in files.get(role, ()))
        raise UserError(
            f"{dataset}: the item files describe none of the {len(items):,} items with interactions; check "
            f"that all files belong to the same data set: {described}"
        )
    user_rows = raw.read_users(files, users, show_progress) if files.get("users") else None

    try:
        with temporary_folder(folder) as temporary:
            write_interactions(temporary / f"{dataset}.inter", found, kept, raw.has_rating)
            write_rows(temporary / f"{dataset}.item", "item_id", raw.item_fields, items, item_rows)
            if user_rows is not None:
                write_rows(temporary / f"{dataset}.user", "user_id", raw.user_fields, users, user_rows)
            if not force:
                refuse_to_overwrite(folder)  # again: another process may have been faster
            publish(temporary, folder)
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; check free space and permissions, or choose "
            "another output folder"
        ) from error
    titled = sum(bool(row[0]) for row in item_rows.values())
    return PrepareSummary(dataset, folder, kcore, len(users), len(items), len(kept), len(found), titled)


def k_core(user: np.ndarray, item: np.ndarray, k: int) -> np.ndarray:
    """Which interactions are in the k-core: the largest set in which each user and item occurs >= k times.

    Args:
        user: User numbers from 0, int ``[n]``.
        item: Item numbers from 0, int ``[n]``.
        k: The least number of interactions.

    Returns:
        Mask, bool ``[n]``.
    """
    keep = np.ones(len(user), dtype=bool)
    while True:
        enough_by_user = np.bincount(user[keep], minlength=user.max(initial=-1) + 1) >= k  # [n_users]
        enough_by_item = np.bincount(item[keep], minlength=item.max(initial=-1) + 1) >= k  # [n_items]
        left = keep & enough_by_user[user] & enough_by_item[item]  # [n]
        if left.sum() == keep.sum():
            return keep
        keep = left


def _files(
    dataset: str,
    raw: RawFormat,
    sources: Mapping[str, Source | Sequence[Source]],
    downloads: Path,
    show_progress: bool,
) -> dict[str, list[RawFile]]:
    """The local files by role; roles that are not named are looked up in the archive."""
    allowed = [*raw.roles, *([ZIP] if raw.has_archive else [])]
    named: dict[str, list[Source]] = {}
    for role, source in sources.items():
        if role not in allowed:
            raise UserError(
                f"{dataset} has no source {role!r}{did_you_mean(role, allowed)}; it takes {', '.join(allowed)}"
            )
        named[role] = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    missing = [role for role in raw.roles if raw.roles[role].required and not named.get(role)]
    if missing and not named.get(ZIP):
        way_out = f", or --{ZIP} with the published archive" if raw.has_archive else ""
        needs = "; ".join(f"--{role} ({raw.roles[role].help})" for role in missing)
        raise UserError(f"{dataset} needs {needs}{way_out}")

    paths = {role: [local_path(source, downloads, show_progress) for source in named[role]] for role in named}
    files = {role: [RawFile(path) for path in paths[role]] for role in raw.roles if role in paths}
    for role in raw.roles:
        if not files.get(role):
            members = raw.roles[role].members
            files[role] = [member for path in paths.get(ZIP, []) for member in zip_members(path, members)]
        if not files[role] and raw.roles[role].required:
            archives = ", ".join(str(path) for path in paths[ZIP])
            raise UserError(f"{archives} holds no {raw.roles[role].members[0]}; name the file with --{role}")
    return files


def _names(numbered: dict[str, int], kept: np.ndarray) -> dict[str, None]:
    """The ids whose numbers occur in ``kept``, in order of first appearance (a dict as an ordered set)."""
    there = np.zeros(len(numbered), dtype=bool)
    there[kept] = True
    return {name: None for name, number in numbered.items() if there[number]}


def add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``recbole-r3vae prepare``."""
    parser.add_argument("dataset", help=f"one of {', '.join(DATASETS)}; or csv, for tables of your own")
    roles = {name: role for spec in DATASETS.values() for name, role in spec.raw.roles.items()}
    for name, role in roles.items():
        parser.add_argument(f"--{name}", nargs="+", action="extend", metavar="FILE", help=f"file or URL: {role.help}")
    parser.add_argument(
        f"--{ZIP}", nargs="+", action="extend", metavar="FILE", help="file or URL: the published archive (not for Amazon)"
    )
    parser.add_argument(
        "--output", "-o", default="dataset", help="folder of all data sets (default: %(default)s)"
    )
    parser.add_argument(
        "--kcore",
        type=int,
        help="least interactions of every user and item; 0 keeps all (default: 5, as in the papers; of your own tables 0)",
    )
    parser.add_argument("--force", "--overwrite", dest="force", action="store_true", help="replace files of an earlier call")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run_prepare(args: argparse.Namespace) -> PrepareSummary:
    """``recbole-r3vae prepare``: call `prepare`, print what was written and the command to use next.

    Args:
        args: What a parser with `add_prepare_arguments` returned.

    Returns:
        What `prepare` returned.
    """
    roles = {name for spec in DATASETS.values() for name in spec.raw.roles} | {ZIP}
    sources = {name: getattr(args, name) for name in roles if getattr(args, name)}
    summary = prepare(args.dataset, sources, args.output, args.kcore, args.force, not args.quiet)
    data_path = "" if args.output == "dataset" else f" --data_path={args.output}"
    print(summary)
    print(f"next: recbole-r3vae run --model=R3GR --dataset={args.dataset}{data_path}")
    return summary
