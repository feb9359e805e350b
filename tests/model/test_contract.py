"""What the contract promises: nobody else asks a model what it is, hooks come in order, settings are checked before data is read."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import recbole_r3vae
from recbole_r3vae.cli import main
from recbole_r3vae.config.registry import get_model
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import SHARED, UNIQUE, Needs, collisions_of
from recbole_r3vae.quick_start import run_recbole_r3vae

# The package offers a function of the module's name.
RUN, PROVIDE = (importlib.import_module(f"recbole_r3vae.quick_start.{name}") for name in ("run", "provide"))
PACKAGE = Path(recbole_r3vae.__file__).parent
ASKING = [path for path in sorted(PACKAGE.rglob("*.py")) if PACKAGE / "model" not in path.parents]
BY_NAME = {"config/registry.py: `name in ours`"}
"""Where the registry looks a model up by the name that the user gave."""


# -- nobody else asks a model what it is -------------------------------------------------------------------------------------------


def questions(source: str) -> Iterator[str]:
    """The expressions that ask a model of this package what class it is, or what it is called."""
    tree = ast.parse(source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imports = [node for node in imports if (node.module or "").startswith("recbole_r3vae.model")]
    models = {alias.asname or alias.name for node in imports for alias in node.names}
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and _calls(node.value, "own_models")]
    listed = {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
            asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            if asked & models:
                yield ast.unparse(node)
        elif isinstance(node, ast.Compare):
            sides, told = [node.left, *node.comparators], [isinstance(op, (ast.In, ast.NotIn)) for op in node.ops]
            lists = any(told) and any(_calls(side, "own_models") or getattr(side, "id", None) in listed for side in sides[1:])
            if lists or any(_is_name_of_model(side) for side in sides):
                yield ast.unparse(node)


def _calls(node: ast.AST, name: str) -> bool:
    return any(isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == name for part in ast.walk(node))


def _is_name_of_model(node: ast.AST) -> bool:
    """``config.model``, ``self.config["model"]`` and ``model_class.__name__``."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "model" and _is_config(node.value)
    if not isinstance(node, ast.Attribute):
        return False
    return (node.attr == "model" and _is_config(node.value)) or (node.attr == "__name__" and "model" in ast.unparse(node.value))


def _is_config(node: ast.AST) -> bool:
    return "config" in (node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else "")


@pytest.mark.parametrize("source", [
    "from recbole_r3vae.model.ranker import SIDGenerator\nif issubclass(found, SIDGenerator): pass",
    "from recbole_r3vae.model.ranker import Ranker as R, SIDGenerator\nisinstance(model, (int, R))",
    "if name in own_models(MODEL_ROOMS[0]): pass",
    "ours = sorted(own_models())\nflag = name not in ours",
    "config.model == 'R3GR'",
    "self.config['model'] != 'TIGER'",
    "config.model in ('Pop', 'ItemKNN')",
    "model_class.__name__ == 'DIN'",
])  # fmt: skip
def test_a_question_is_noticed(source):
    assert list(questions(source))


@pytest.mark.parametrize("source", [
    "from recbole_r3vae.errors import UserError\nisinstance(error, UserError)",
    "from recbole_r3vae.model.ranker import Ranker\nRanker.check(config)",
    "known = sorted(own_models())\nprint(known)",
    "config.contract.task == TOKENIZE",
    "record.model == other.model",
    "unit['model'] == name",
])  # fmt: skip
def test_what_is_no_question_is_let_be(source):
    assert not list(questions(source))


def test_nobody_outside_asks_a_model_what_it_is():
    found = {f"{path.relative_to(PACKAGE)}: `{question}`" for path in ASKING for question in questions(path.read_text(encoding="utf-8"))}
    assert len(ASKING) > 50 and found == BY_NAME


# -- hooks ---------------------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As a signal: nothing catches it."""


def observe(patched, model_class: type, dies_at: int = 0) -> list[tuple]:
    """What happens to a model in training, in order."""
    events, before = [], {}
    begin_epoch, after_step = getattr(model_class, "begin_epoch", None), getattr(model_class, "after_step", None)
    calculate_loss = model_class.calculate_loss

    def of_epoch(self, epoch):
        events.append(("epoch", epoch))
        if begin_epoch is not None:
            begin_epoch(self, epoch)

    def of_loss(self, batch):
        events.append(("loss", id(batch)))
        if len([event for event in events if event[0] == "loss"]) == dies_at:
            raise Killed
        before.update({name: value.detach().clone() for name, value in self.named_parameters()})
        return calculate_loss(self, batch)

    def of_step(self, batch):
        moved = any(not torch.equal(before[name], value) for name, value in self.named_parameters())
        events.append(("step", id(batch), moved, self.training))
        if after_step is not None:
            after_step(self, batch)

    for name, function in (("begin_epoch", of_epoch), ("calculate_loss", of_loss), ("after_step", of_step)):
        patched.setattr(model_class, name, function, raising=False)
    return events


CASES = {
    "R3GR": {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "train_batch_size": 32},
    "HSTU": {"train_batch_size": 32},
    "SASRec": {"loss_type": "CE", "train_batch_size": 512},
    "BPR": {"train_batch_size": 512},
    "DeepFM": {"train_batch_size": 2048},
    "RQVAE": {"train_batch_size": 64},
}


@pytest.mark.parametrize("model", list(CASES))
def test_hooks_come_in_order(tiny_settings, monkeypatch, model):
    with monkeypatch.context() as patched:
        events = observe(patched, get_model(model))
        run_recbole_r3vae(model, "tiny", config_dict={**tiny_settings, "state": "error", **CASES[model]})
    assert [event[1] for event in events if event[0] == "epoch"] == [0, 1, 2] and events[0] == ("epoch", 0)
    batches = len([event for event in events if event[0] == "loss"]) // 3
    assert batches > 1 and [event[0] for event in events] == 3 * ["epoch", *batches * ["loss", "step"]]
    losses, steps = ([event for event in events if event[0] == kind] for kind in ("loss", "step"))
    assert [event[1] for event in losses] == [event[1] for event in steps]  # the batch of the step
    assert all(moved and training for *_, moved, training in steps)


@pytest.mark.parametrize("model", ["R3GR", "SASRec", "RQVAE"])
def test_hooks_come_in_the_same_order_after_a_resumption(tiny_settings, monkeypatch, model):
    settings = {**tiny_settings, "state": "error", **CASES[model]}
    with monkeypatch.context() as patched:
        whole = observe(patched, get_model(model))
        run_recbole_r3vae(model, "tiny", config_dict={**settings, "checkpoint_dir": "whole"})
    batches = len([event for event in whole if event[0] == "loss"]) // 3
    with monkeypatch.context() as patched, pytest.raises(Killed):
        observe(patched, get_model(model), dies_at=batches + 2)  # in the second epoch
        run_recbole_r3vae(model, "tiny", config_dict={**settings, "checkpoint_dir": "again"})
    with monkeypatch.context() as patched:
        rest = observe(patched, get_model(model))
        run_recbole_r3vae(model, "tiny", config_dict={**settings, "checkpoint_dir": "again", "resume": True})
    assert [event[0] for event in rest] == [event[0] for event in whole[1 + 2 * batches :]]
    assert [event[1] for event in rest if event[0] == "epoch"] == [1, 2]


# -- settings before data ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_data(monkeypatch):
    """Reading a dataset fails the test."""
    for module, name in ((RUN, "create_dataset"), (RUN, "dataset_folder"), (RUN, "item_content"), (PROVIDE, "item_content")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("data was read"))


@pytest.mark.parametrize("model, change", [
    ("R3GR", {"num_beams": 0}),
    ("R3GR", {"warmup_steps": -1}),
    ("R3GR", {"metrics": ["GAUC"], "valid_metric": "GAUC"}),
    ("R3GR", {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "tokenizer_kmeans_iterations": 0}),
    ("R3GR", {"tokenizer": "OPQ", "tokenizer_epochs": 0, "tokenizer_codebook_sizes": [8, 9]}),
    ("TIGER", {"loss_temperature": 0}),
    ("RQVAE", {"codebook_sizes": [1]}),
    ("DeepFM", {"sid_features": "replaced"}),
    ("DeepFM", {"sid_features": "replace", "sid_prefix_buckets": -1}),
    ("SASRec", {"hidden_size": "wide"}),
])  # fmt: skip
def test_a_setting_is_refused_before_data_is_read(tiny_settings, tmp_path, no_data, model, change):
    unrelated = {key: value for key, value in tiny_settings.items() if key not in ("epochs", "tokenizer_epochs")}
    with pytest.raises(UserError):
        run_recbole_r3vae(model, "tiny", config_dict={**unrelated, **change})
    assert not list(tmp_path.rglob("*"))


def test_a_refused_command_leaves_nothing_behind(tiny_data, tmp_path, no_data, capsys):
    words = [f"--data_path={tiny_data}", "--dataset=tiny"]
    assert main(["run", "--model=R3GR", "--num_beams=3", *words]) == 2
    assert "num_beams=3 is below the largest topk" in capsys.readouterr().err and not list(tmp_path.rglob("*"))
    assert main(["run", "--model=R3GR", "--num_beam=3", *words]) == 2
    assert not list(tmp_path.rglob("*"))
    models = {"R3GR": {"tokenizers": ["RKMeans"], "settings": {"num_beams": 3}}}
    Path("grid.yaml").write_text(yaml.safe_dump({"datasets": ["tiny"], "seeds": [1], "models": models}))
    assert main(["benchmark", "--config=grid.yaml", f"--data_path={tiny_data}"]) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["grid.yaml"]


def test_settings_are_checked_before_and_data_is_read_after(tiny_settings, monkeypatch):
    order, r3gr, rkmeans = [], get_model("R3GR"), get_model("RKMeans")
    for model_class in (r3gr, rkmeans):
        check = model_class.check.__func__

        def noted(cls, config, check=check):
            order.append(cls.__name__)
            return check(cls, config)

        monkeypatch.setattr(model_class, "check", classmethod(noted))
    create_dataset = RUN.create_dataset
    monkeypatch.setattr(RUN, "create_dataset", lambda config: order.append("data") or create_dataset(config))
    settings = {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "epochs": 1, "state": "error"}
    run_recbole_r3vae("R3GR", "tiny", config_dict={**tiny_settings, **settings})
    assert order[: order.index("data")] == ["R3GR", "RKMeans"]


def test_what_becomes_of_items_of_equal_codes():
    known = {kind: collisions_of(Needs(kind), {"collision_policy": "reassign"}) for kind in (UNIQUE, SHARED, None)}
    assert known == {UNIQUE: "reassign", SHARED: "share", None: None}
