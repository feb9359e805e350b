"""Semantic IDs as features: what the models see of an item, from the command line to a loaded checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from recbole.utils import FeatureSource, init_seed

from recbole_r3vae.cli import main
from recbole_r3vae.config import Config, tokenizer_config
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import CLICK, RANK
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, get_trainer
from recbole_r3vae.record import Record
from recbole_r3vae.sid.table import SemanticIDs
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint, sources_of

ITEM = [FeatureSource.ITEM, FeatureSource.ITEM_ID]
KEPT = ("data_path", "checkpoint_dir", "content_cache_dir", "load_col", "item_text_fields", "codebook_sizes", "content_dim")
SMALL = {"embedding_size": 4, "mlp_hidden_size": [8], "sid_prefix_buckets": 16, "epochs": 1, "tokenizer_epochs": 0, "tokenizer": "RKMeans"}


@pytest.fixture
def click_settings(tiny_settings) -> dict:
    columns = {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "movie_title", "class"]}
    own = ("hidden_size", "inner_size", "n_heads", "warmup_steps", "valid_num_beams", "num_beams")
    kept = {key: value for key, value in tiny_settings.items() if key not in own}
    return {**kept, **SMALL, "load_col": columns, "ctr_features": ["class"], "threshold": {"rating": 4}}


def untrained(settings, model, kind, codes=None, sizes=(8, 8)):
    """A model with random weights and its datasets; by default with random codes."""
    config = Config(model, "tiny", config_dict={**settings, "sid_features": kind})
    init_seed(0, True)
    dataset = create_dataset(config)
    if codes is None:
        codes = torch.randint(0, 8, (dataset.item_num, 2))
    codes[0] = -1
    if kind != "none":
        names = [str(item) for item in dataset.field2id_token["item_id"]]
        dataset.add_semantic_ids(SemanticIDs(codes, sizes, names), 16, kind == "replace")
    train, _, test = data_preparation(config, dataset)
    return config.model_class(config, train.dataset), train, test


def tables(network) -> list[int]:
    return sorted(len(module.weight) for module in network.modules() if isinstance(module, torch.nn.Embedding))


@pytest.mark.parametrize("model", ["DeepFM", "DIN"])
@pytest.mark.parametrize("kind", ["replace", "append", "none"])
def test_the_model_has_a_table_for_what_it_sees_of_items_and_for_nothing_else(click_settings, model, kind):
    network, train, _ = untrained(click_settings, model, kind)
    dataset, columns = train.dataset, ["sid_1", "sid_2", "sid_prefix_2"]
    assert set(dataset.fields(source=ITEM)) == {"class", *([] if kind == "replace" else ["item_id"]), *([] if kind == "none" else columns)}
    assert dataset.item_num == 149 and "item_id" in dataset.inter_feat  # RecBole's bookkeeping goes on
    item_rows = (0 if kind == "replace" else 149) + (0 if kind == "none" else 2 * 9 + 17)
    classes = dataset.num("class")
    if model == "DIN":  # a table of token fields for users, one for items, one for each sequence
        assert tables(network) == sorted([61, item_rows, classes])
    else:  # one of all token fields and one for each sequence, and again for the linear part
        assert tables(network) == sorted([61 + item_rows, classes] * 2)


@pytest.mark.parametrize("model", ["WideDeep", "xDeepFM", "FM", "NFM", "AutoInt", "PNN", "DCN", "DSSM"])
def test_other_context_models_take_the_features_too(click_settings, model):
    network, train, test = untrained({**click_settings, "reg_weight": 0.01}, model, "replace")
    network.calculate_loss(next(iter(train))).backward()
    assert 149 not in tables(network) and torch.isfinite(network.eval().predict(next(iter(test))[0])).all()


@pytest.mark.parametrize("model", ["DeepFM", "DIN"])
@pytest.mark.parametrize("kind", ["replace", "append"])
def test_items_of_equal_codes_are_one_to_a_model_without_item_ids(click_settings, model, kind):
    codes = torch.stack([torch.arange(-1, 148) // 2 % 8, torch.arange(-1, 148) // 16], 1)  # two items each
    network, _, test = untrained({**click_settings, "ctr_features": []}, model, kind, codes, (8, 10))
    rows = test._dataset.inter_feat[torch.arange(40)]
    scores = []
    for twin in (0, 1):
        twins = {name: rows[name].clone() for name in rows.interaction}
        twins["item_id"] = 1 + torch.arange(40) // 2 * 2 + twin
        if model == "DIN":  # histories of twins too
            sequence = test._dataset.item_sequence
            test._dataset.item_sequence = 1 + (sequence - 1) // 2 * 2 + twin
        batch = test._dataset.join(type(rows)(twins))
        if model == "DIN":
            test._dataset.item_sequence = sequence
        with torch.no_grad():
            scores.append(network.eval().predict(batch))
    assert torch.equal(*scores) == (kind == "replace")


def test_the_same_from_the_command_line_and_again_from_the_checkpoint(click_settings, caplog):
    caplog.set_level("INFO")
    words = [f"--{key}={json.dumps(value)}" for key, value in click_settings.items()]
    assert main(["run", "--model=DCNV2", "-d", "tiny", "--sid_features=append", *words, "--valid_metric=UAUC"]) == 0
    [file] = Path("saved/tiny").glob("DCNV2-append-RKMeans-*/result.json")
    result = Record.read(file)
    metrics = result.labelled["metrics"]
    assert {"auc", "logloss", "uauc"} <= set(metrics) and {"auc", "logloss", "uauc"} <= set(result.valid)
    assert result.test == {"left_out": None, "stay": None} and result.users is None  # no ranking of the catalogue
    assert result.labelled["test"]["rows"] == 60 * 4 and result.loss == "log loss"
    assert load_checkpoint(file.parent / "best.pth")["best_valid_score"] == result.valid["uauc"]
    assert "recbole-r3vae run --model=DCNV2 --dataset=tiny " in caplog.text
    config, network, _, _, _, test = load_data_and_model(file.parent / "best.pth")
    again = get_trainer(config)(config, network).evaluate(test, load_best_model=False)
    assert dict(again) == metrics


def test_semantic_ids_from_a_file_without_the_level_that_only_counts(click_settings, tmp_path):
    names = [str(item) for item in create_dataset(Config("FM", "tiny", config_dict=click_settings)).field2id_token["item_id"]]
    codes = torch.stack([torch.arange(-1, 148) // 2 % 8, torch.arange(-1, 148) // 16, torch.arange(-1, 148) % 2], 1)
    codes[0] = -1
    SemanticIDs(codes, (8, 10, 2), names, {"collision_policy": "suffix"}).save(tmp_path / "pairs.sid")
    more = {"sid_features": "replace", "sid_file": str(tmp_path / "pairs.sid")}
    result = run_recbole_r3vae("FM", "tiny", config_dict={**click_settings, **more})
    assert result["name"] == "FM-replace[pairs]"
    (tmp_path / "pairs.sid").unlink()  # the run keeps its own
    config, network, dataset, *_ = load_data_and_model(Path(result["run_dir"]) / "best.pth")
    assert [field for field in dataset.fields(source=ITEM) if field.startswith("sid")] == ["sid_1", "sid_2", "sid_prefix_2"]


def test_the_tokenizer_has_settings_of_its_own_and_codes_that_items_share(click_settings):
    config = Config("DeepFM", "tiny", config_dict={**click_settings, "learning_rate": 0.5, "tokenizer_seed": 7})
    stage = tokenizer_config(config)
    assert stage.model == "RKMeans" and stage["epochs"] == 0 and stage["learning_rate"] != 0.5 and stage["seed"] == 7
    assert stage["codebook_sizes"] == [8, 8, 8]
    result = run_recbole_r3vae("DeepFM", "tiny", config_dict={**click_settings, "sid_features": "replace"})
    sids = SemanticIDs.load(result["sid_file"])
    assert sids.n_levels == 3 and not sids.unique
    kept = sources_of(load_checkpoint(Path(result["run_dir"]) / "best.pth")["sources"]).semantic_ids
    assert kept.align(sids.item_ids).content_hash == sids.content_hash


@pytest.mark.parametrize(
    "model, words, expected",
    [
        ("SASRec", ["--sid_features=replace"], ["unknown key --sid_features", "it is for models that predict clicks", "--model=DeepFM"]),
        ("R3GR", ["--sid_features=append"], ["unknown key --sid_features", "it is for models that predict clicks", "leave it out"]),
        ("DeepFM", ["--sid_features=replce"], ["sid_features is 'replce'", "did you mean 'replace'"]),
        ("DeepFM", ["--tokenizer=RQVAE"], ["tokenizer is given, and DeepFM reads no semantic IDs", "add --sid_features=replace"]),
        ("DeepFM", ["--sid_features=replace", "--tokenizer=R3VEA"], ["there is no tokenizer 'R3VEA'", "did you mean 'R3VAE'"]),
        ("DeepFM", ["--sid_features=replace", "--tokenizer=LETTER"], ["LETTER learns from interactions", "RKMeans"]),
        ("DeepFM", ["--sid_features=append", "--sid_prefix_buckets=-1"], ["sid_prefix_buckets is -1"]),
        ("DeepFM", ["--sid_features=append", "--sid_file=no.sid"], ["no.sid"]),
        ("DIN", ["--sid_features=append", "--tokenizer=RKMeans", "--eval_args={order: RO}"], ["histories are in time order"]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(click_settings, capfd, model, words, expected):
    kept = [key for key in KEPT if not (model == "SASRec" and key == "codebook_sizes")]  # it has no tokenizer, and the first key counts
    words = [*words, *(f"--{key}={json.dumps(click_settings[key])}" for key in kept)]
    assert main(["run", f"--model={model}", "-d", "tiny", *words]) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("recbole-r3vae: ")]
    for text in expected:
        assert text in line


def test_keys_of_eval_args_that_are_not_given_stay(click_settings):
    config = Config("DeepFM", "tiny", config_dict={**click_settings, "eval_args": {"split": {"LS": "valid_and_test"}}})
    assert config["eval_args"]["mode"]["test"] == "labeled" and config["eval_args"]["order"] == "TO"


def test_a_ranking_of_the_catalogue_is_no_prediction_of_clicks(click_settings, caplog):
    ranking = {"eval_args": {"mode": "full"}, "metrics": ["Recall"], "valid_metric": "Recall@10", "topk": [10]}
    settings = {**click_settings, **ranking}
    assert Config("DeepFM", "tiny", config_dict=settings).contract.task == RANK
    assert Config("DeepFM", "tiny", config_dict=click_settings).contract.task == CLICK
    with pytest.raises(UserError, match="with `mode: labeled` in eval_args"):
        Config("DeepFM", "tiny", config_dict=settings, arguments=["--sid_features=replace"])
    Config("DeepFM", "tiny", config_dict={**settings, "sid_features": "replace"})  # from Python it is said, and the run goes on
    assert "sid_features; it is for models that predict clicks" in caplog.text and "with `mode: labeled` in eval_args" in caplog.text
