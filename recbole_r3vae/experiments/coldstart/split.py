"""A dataset divided into warm and cold items, and the files of the warm ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_r3vae.config import Config
from recbole_r3vae.config.identity import fingerprint
from recbole_r3vae.data.cold import Question, ask, random_items, recent_items, select_lines
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write
from recbole_r3vae.quick_start.lookup import create_dataset, dataset_folder
from recbole_r3vae.serve.users import UserHistories


@dataclass(frozen=True)
class Split:
    """A dataset divided into warm and cold items.

    Attributes:
        folder: where the warm dataset, its models and ``cold.item`` lie.
        hash: of the warm files and the cold items' names.
        cold: external ids.
        warm: likewise.
        questions: what users are asked.
        left_out: users who are not asked, see :func:`~recbole_r3vae.data.cold.ask`.
        number: external id of each warm and cold item to a number from 1, which is what lists hold.
        settings: of a run on the warm dataset.
    """

    folder: Path
    hash: str
    cold: frozenset[str]
    warm: frozenset[str]
    questions: list[Question]
    left_out: int
    number: dict[str, int]
    settings: dict[str, Any]


def make_split(config: Config, cold_share: float, cold_by: str) -> Split:
    """Choose the cold items and write a dataset without them.

    The minimal numbers of interactions that the dataset's settings ask for are applied before, to warm and cold items alike, and not
    again after: a user or an item does not go for want of interactions with cold ones.

    Args:
        config: of the generator, on the whole dataset.
        cold_share, cold_by: as of :func:`run_coldstart`.

    Raises:
        UserError: the dataset has no texts or times that are needed, or is not split by leaving one out.
    """
    dataset, folder, name = create_dataset(config), dataset_folder(config), config.dataset
    frame, user_field, item_field = dataset.inter_feat, dataset.uid_field, dataset.iid_field
    users, items = (dataset.field2id_token[field].astype(str) for field in (user_field, item_field))
    if dataset.time_points is not None:
        raise UserError(
            f"a cold-start split leaves one test item out of each user's history, and split in eval_args is "
            f"{dict(config['eval_args']['split'])}; leave it out"
        )
    if config["eval_args"].get("ties") is not None:
        raise UserError("a cold-start split keeps the order of the file, and ties in eval_args draws another; leave it out")
    histories = UserHistories(dataset)
    asked = histories.users("test")  # refuses other splits than leave-one-out in time order
    met = items[frame[item_field].to_numpy()]
    if cold_by == "random":
        cold = random_items(met, cold_share, config["seed"])
    else:
        cold = recent_items(frame[user_field].to_numpy(), met, frame[dataset.time_field].to_numpy(), cold_share)
    questions, left_out = ask(histories.of(asked), cold)

    warm = set(items[1:]) - cold
    separator, encoding = config["field_separator"], config["encoding"] or "utf-8"
    inter = select_lines(folder / f"{name}.inter", {user_field: set(users[1:]), item_field: warm}, separator, encoding)
    texts = select_lines(folder / f"{name}.item", {item_field: warm}, separator, encoding)
    own = folder / f"{name}.yaml"  # settings that lie beside the data, as `prepare csv` writes them
    more = {f"data/{name}/{name}.yaml": own.read_bytes()} if own.is_file() else {}
    digest = fingerprint({"inter": inter, "item": texts, "cold": sorted(cold), **{path: data.decode() for path, data in more.items()}})
    target = Path(config["checkpoint_dir"]) / "coldstart" / f"{name}-{digest}"
    cold_texts = select_lines(folder / f"{name}.item", {item_field: cold}, separator, encoding)
    files = {f"data/{name}/{name}.inter": inter, f"data/{name}/{name}.item": texts, "cold.item": cold_texts}
    for path, data in {**more, **{path: text.encode(encoding) for path, text in files.items()}}.items():
        with atomic_write(target / path, "wb") as file:
            file.write(data)
    settings = {
        "data_path": str(target / "data"), "checkpoint_dir": str(target / "saved"), "run_dir": None, "resume": True,
        "user_inter_num_interval": None, "item_inter_num_interval": None,
    }  # fmt: skip
    number = {item: place for place, item in enumerate(sorted(warm | cold), start=1)}
    return Split(target, digest, frozenset(cold), frozenset(warm), questions, left_out, number, settings)
