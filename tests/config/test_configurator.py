"""Where values come from, which stage they reach, and that nothing is evaluated."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import yaml
from recbole.utils import ModelType

from recbole_r3vae.config import Config, decisive, tokenizer_config
from recbole_r3vae.config.registry import MODEL_ROOMS, get_model, own_models
from recbole_r3vae.config.sources import given_settings, load_yaml, parse_arguments, parse_value, properties
from recbole_r3vae.data.sequences import PrefixDataset
from recbole_r3vae.errors import UserError, did_you_mean


@pytest.mark.parametrize("text, value", [
    ("5", 5), ("1e-3", 0.001), ("-2.5E2", -250.0), ("True", True), ("false", False), ("None", None), ("~", None), ("[64,64]", [64, 64]),
    ("{'LS': 'valid_and_test'}", {"LS": "valid_and_test"}), ("NDCG@10", "NDCG@10"), ("[1", "[1"), ("a: b: c", "a: b: c"),
    ("__import__('os').getcwd()", "__import__('os').getcwd()"), ("!!python/name:os.system", "!!python/name:os.system"), ("0,1", "0,1"),
])  # fmt: skip
def test_words_become_values_by_yamls_rules(text, value):
    assert parse_value("key", text) == value


def test_intervals_stay_strings():
    assert parse_value("user_inter_num_interval", "[5,10]") == "[5,10]"


@pytest.mark.parametrize("text", ["{title}", "Text: {title}", "{title}. Categories: {categories}", "[{title}]", "3", "{title"])
def test_templates_stay_strings(text):
    for key in ("item_text_template", "tokenizer_item_text_template"):
        assert parse_value(key, text) == text and parse_arguments([f"--{key}={text}"]) == {key: text}
    config = Config("R3GR", "ml-100k", config_dict={"item_text_template": text}, arguments=["--tokenizer_item_text_template", text])
    assert config["item_text_template"] == config["tokenizer_item_text_template"] == text


@pytest.mark.parametrize("text", ["~", "null", "None"])
def test_no_template_is_none(text):
    assert parse_value("item_text_template", text) is None
    with pytest.raises(UserError, match=r"item_text_template is \{'title': None\} \(dict\), it must be str"):
        Config("R3GR", "ml-100k", config_dict={"item_text_template": {"title": None}})


def test_both_spellings_of_an_argument():
    words = ["--epochs=3", "--learning_rate", "1e-2", "--resume", "--name=a=b", "--epochs", "3"]
    assert parse_arguments(words) == {"epochs": 3, "learning_rate": 0.01, "resume": True, "name": "a=b"}


@pytest.mark.parametrize("words", [["epochs=3"], ["--"], ["--epochs=3", "4"]])
def test_words_that_belong_to_nothing(words):
    with pytest.raises(UserError, match="belongs to no option"):
        parse_arguments(words)


def test_precedence(tmp_path):
    path, later = tmp_path / "a.yaml", tmp_path / "b.yaml"
    path.write_text("epochs: 7\nlearning_rate: 7e-3\ndropout: 0.7\nhidden_size: 32\n")
    later.write_text("hidden_size: 64\n")
    config = Config("R3GR", "ml-100k", [path, later], {"learning_rate": 0.5, "dropout": 0.5}, ["--dropout=0.1"])
    assert (config["dropout"], config["learning_rate"], config["epochs"], config["hidden_size"]) == (0.1, 0.5, 7, 64)
    model_yaml, quick = (load_yaml(properties() / p) for p in ("model/R3GR.yaml", "quick_start/R3GR_ml-100k.yaml"))
    assert config["inner_size"] == quick["inner_size"] != model_yaml["inner_size"]
    assert Config("R3GR", "other")["inner_size"] == model_yaml["inner_size"]


def test_a_host_programs_arguments_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochs=99", "--nonsense=1"])
    assert Config("R3GR", "ml-100k")["epochs"] != 99


def test_keys_reach_the_stage_they_belong_to():
    given = {"learning_rate": 0.5, "tokenizer_epochs": 2, "codebook_sizes": [4, 4], "seed": 9, "max_minutes": 1, "content_dim": 16}
    generator = Config("R3GR", "ml-100k", config_dict=given)
    tokenizer = tokenizer_config(generator)
    defaults = load_yaml(properties() / "model" / "R3VAE.yaml")
    assert tokenizer.model == "R3VAE" and tokenizer["learning_rate"] == defaults["learning_rate"]
    assert (tokenizer["epochs"], tokenizer["codebook_sizes"], tokenizer["seed"], tokenizer["content_dim"]) == (2, [4, 4], 9, 16)
    assert tokenizer["max_minutes"] is None and tokenizer["valid_metric"] == defaults["valid_metric"]
    assert generator["epochs"] != 2 and generator["learning_rate"] == 0.5


def test_a_users_own_tokenizer_key_beats_the_datasets_file():
    sizes = [
        tokenizer_config(Config("R3GR", "ml-100k", config_dict=given))["codebook_sizes"]
        for given in ({}, {"codebook_sizes": [5]}, {"codebook_sizes": [5], "tokenizer_codebook_sizes": [6]})
    ]
    assert sizes == [[64, 64, 64], [5], [6]]


@pytest.mark.parametrize("given, sizes", [({}, [32, 32, 32]), ({"codebook_sizes": [5, 5]}, [5, 5]), ({"tokenizer_codebook_sizes": [6]}, [6])])
def test_a_models_key_of_its_tokenizer_gives_way_in_a_checkpoint_too(given, sizes):
    config = Config("COBRA", "lastfm", config_dict=given)
    again = Config(config_dict=yaml.safe_load(yaml.safe_dump(config.declared)))
    assert tokenizer_config(config)["codebook_sizes"] == tokenizer_config(again)["codebook_sizes"] == sizes
    assert decisive(again) == decisive(config)


def test_a_config_can_be_made_again_from_what_it_declares():
    config = Config("R3GR", "ml-100k", config_dict={"dropout": 0.3, "tokenizer_epochs": 3})
    again = Config(config_dict=yaml.safe_load(yaml.safe_dump(config.declared)))
    assert again.declared == config.declared and decisive(again) == decisive(config)
    assert again["data_path"] == config["data_path"]


@pytest.mark.parametrize("given, device", [
    ({"use_gpu": False}, "cpu"), ({"gpu_id": ""}, "cpu"), ({"device": "cpu", "gpu_id": 0}, "cpu"),
    ({"device": "auto", "use_gpu": False}, None),
])  # fmt: skip
def test_device(given, device):
    config = Config("R3GR", "ml-100k", config_dict=given)
    assert config["device"].type == (device or ("cuda" if __import__("torch").cuda.is_available() else "cpu"))


def test_full_softmax_needs_no_word_about_negatives():
    assert Config("SASRec", "ml-100k")["train_neg_sample_args"]["distribution"] == "none"
    assert Config("BPR", "ml-100k")["train_neg_sample_args"]["distribution"] == "uniform"


def test_models_are_found_by_their_file():
    assert {"R3GR", "R3VAE"} <= set(own_models())
    assert get_model("R3GR") is own_models()["R3GR"] and get_model("SASRec").__module__.startswith("recbole.")
    for name in own_models():
        assert (properties() / "model" / f"{name}.yaml").is_file(), f"{name} has no YAML"


def test_of_eval_args_what_is_not_given_stays():
    for model in ("BPR", "SASRec", "R3GR"):
        found = Config(model, "ml-100k", config_dict={"eval_args": {"mode": "uni100"}, "valid_metric": "NDCG@10"})["eval_args"]
        assert found["split"] == {"LS": "valid_and_test"} and found["order"] == "TO" and found["mode"] == {"valid": "uni100", "test": "uni100"}
    assert Config("DeepFM", "ml-100k", config_dict={"eval_args": {"order": "RO"}})["eval_args"]["split"] == {"RS": [8, 1, 1]}


def test_a_mapping_is_filled_by_every_source(tmp_path):
    """Files, Python and the command line each say a part; what none says is the default."""
    (tmp_path / "a.yaml").write_text("eval_args: {split: {LS: valid_only}, mode: full}\n")
    (tmp_path / "b.yaml").write_text("eval_args: {mode: uni20}\ntrain_neg_sample_args: {sample_num: 3}\n")
    given = {"eval_args": {"group_by": "user"}, "train_neg_sample_args": {"alpha": 0.5}, "valid_metric": "NDCG@10"}
    config = Config("BPR", "ml-100k", [tmp_path / "a.yaml", tmp_path / "b.yaml"], given, ["--eval_args={mode: uni50}"])
    expected = {"split": {"LS": "valid_only"}, "order": "TO", "group_by": "user", "mode": {"valid": "uni50", "test": "uni50"}}
    assert config["eval_args"] == expected
    negatives = {"distribution": "uniform", "sample_num": 3, "alpha": 0.5, "dynamic": False, "candidate_num": 0}
    assert config["train_neg_sample_args"] == negatives
    assert given_settings([tmp_path / "a.yaml"], ["--eval_args={order: RO}"])["eval_args"] == {
        "split": {"LS": "valid_only"}, "mode": "full", "order": "RO",
    }  # fmt: skip


@pytest.mark.parametrize("given, expected", [
    ({"eval_args": {"spilt": {"LS": "valid_only"}}}, "unknown key 'spilt' in eval_args; did you mean 'split'"),
    ({"train_neg_sample_args": {"zzz": 1}}, "unknown key 'zzz' in train_neg_sample_args; it holds distribution, sample_num"),
])  # fmt: skip
def test_a_key_within_a_mapping_that_nobody_has_is_refused(given, expected):
    with pytest.raises(UserError) as caught:
        Config("BPR", "ml-100k", config_dict=given)
    assert expected in str(caught.value)


@pytest.mark.parametrize("words", [["--model=SASRec"], ["--dataset=other"]])
def test_a_word_that_contradicts_the_command_is_refused(words):
    with pytest.raises(UserError, match="contradicts (model|dataset) (R3GR|ml-100k), which this is about; leave it out"):
        Config("R3GR", "ml-100k", arguments=words)
    Config("R3GR", "ml-100k", arguments=["--model=R3GR", "--dataset=ml-100k"])


def test_files_of_settings_are_no_setting(caplog):
    for key in ("config_file", "config_files"):
        with pytest.raises(UserError, match="given as --config_files FILE"):
            Config("Pop", "ml-100k", arguments=[f"--{key}=absent.yaml"])
        Config("Pop", "ml-100k", config_dict={key: ["absent.yaml"]})
    assert caplog.text.count("from Python as config_file_list") == 2


def test_weights_that_no_code_reads_get_a_word(caplog):
    given = {"preload_weight": {"ent_id": "ent_emb"}}
    Config("SASRec", "ml-100k", config_dict=given)
    assert "preload_weight is read by none of the code of SASRec; give item vectors as content_file" in caplog.text
    with pytest.raises(UserError, match="preload_weight is read by none"):
        Config("R3GR", "ml-100k", config_dict={**given, "strict_config": True})
    caplog.clear()
    Config("GRU4RecKG", "ml-100k", config_dict=given)
    assert "preload_weight is read" not in caplog.text


def test_a_whole_float_is_a_whole_number_where_one_is_asked_for():
    config = Config("R3GR", "ml-100k", config_dict={"hidden_size": 64.0, "learning_rate": 1.0}, arguments=["--epochs=3.0"])
    assert [(type(config[key]), config[key]) for key in ("hidden_size", "learning_rate", "epochs")] == [(int, 64), (float, 1.0), (int, 3)]
    given = {"codebook_sizes": [4.0, 4], "tokenizer_kmeans_iterations": 8.0, "topk": [5.0, 10]}
    declared = Config("R3GR", "ml-100k", config_dict=given).declared
    assert repr([declared[key] for key in given]) == "[[4, 4], 8, [5, 10]]"
    assert type(Config("SASRec", "ml-100k", config_dict={"hidden_size": 64.0, "loss_type": "CE"})["hidden_size"]) is int


def test_dates_of_a_file_stay_texts(tmp_path):
    (tmp_path / "x.yaml").write_text("run_dir: 2020-01-02\ncheckpoint_dir: 2020-01-02 03:04:05\n")
    assert Config("R3GR", "ml-100k", [tmp_path / "x.yaml"]).declared["run_dir"] == "2020-01-02" == parse_value("run_dir", "2020-01-02")
    (tmp_path / "x.yaml").write_text("run_dir: !!binary aGVsbG8=\n")
    with pytest.raises(UserError, match=r"run_dir is b'hello' \(bytes\); give a number"):
        Config("R3GR", "ml-100k", [tmp_path / "x.yaml"])


def test_python_values_become_plain_ones():
    given = {
        "learning_rate": np.float32(0.5), "epochs": np.int64(3), "codebook_sizes": (4, np.int32(4)), "topk": np.array([5, 10]),
        "eval_args": {"split": {"LS": np.str_("valid_and_test")}}, "tokenizer_sc_weight": torch.tensor(0.25), "valid_metric": "NDCG@10",
    }  # fmt: skip
    declared = Config("R3GR", "ml-100k", config_dict=given).declared
    found = [declared[key] for key in ("learning_rate", "epochs", "codebook_sizes", "topk", "tokenizer_sc_weight")]
    assert found == [0.5, 3, [4, 4], [5, 10], 0.25] and [type(value) for value in found] == [float, int, list, list, float]
    assert type(declared["eval_args"]["split"]["LS"]) is str and type(declared["codebook_sizes"][1]) is int
    with pytest.raises(UserError, match=r"^epochs is <object .* \(object\); give a number"):
        Config("R3GR", "ml-100k", config_dict={"epochs": object()})
    with pytest.raises(UserError, match=r"^load_col\.inter is b'x' \(bytes\); give a number"):
        Config("R3GR", "ml-100k", config_dict={"load_col": {"inter": [b"x"]}})
    with pytest.raises(UserError, match="^loss_type is <ModelType"):
        Config("SASRec", "ml-100k", config_dict={"loss_type": ModelType.GENERAL})


@pytest.mark.parametrize("words, hint", [
    (["--tokenizer_hidden_size=8"], "unknown key --tokenizer_hidden_size for model R3GR; tokenizer R3VAE has no key hidden_size"),
    (["--tokenizer_num_beams=8"], "tokenizer R3VAE has no key num_beams"),
    (["--tokenizer_sc_wieght=1"], "did you mean 'tokenizer_sc_weight'"),
    (["--mask_history=True"], "set valid_rule to left_out or stay"),
    (["--sid_features=replace"], "it is for models that predict clicks"),
    (["--epoch=1"], "did you mean 'epochs'"),
])  # fmt: skip
def test_a_key_that_nobody_has_is_refused(words, hint):
    with pytest.raises(UserError) as caught:
        Config("R3GR", "ml-100k", arguments=words)
    assert hint in str(caught.value)


def test_keys_of_windows_are_those_of_models_that_have_windows():
    for model in [*own_models(MODEL_ROOMS[1]), *own_models(MODEL_ROOMS[2])]:
        has = get_model(model).dataset_class is not PrefixDataset
        assert (Config(model, "ml-100k")["crop_probability"] == 0.0) is has
        if not has:
            with pytest.raises(UserError, match=f"it is for models that are trained on windows, such as R3GR, and {model} is not"):
                Config(model, "ml-100k", arguments=["--shuffle_ties=timestamp"])


def test_a_key_that_nobody_has_gets_a_word_from_python_too(caplog):
    Config("R3GR", "ml-100k", config_dict={"epoch": 1})
    assert "unknown keys in config_dict, ignored: epoch; did you mean 'epochs'?" in caplog.text
    with pytest.raises(UserError, match="unknown keys in config_dict for model R3GR: epoch"):
        Config("R3GR", "ml-100k", config_dict={"epoch": 1, "strict_config": True})


def test_hints_name_the_nearest():
    assert did_you_mean("epoch", ["epochs", "eval_step"]) == "; did you mean 'epochs'?"
    assert did_you_mean("zzz", ["epochs"]) == ""


@pytest.mark.parametrize("model, words, expected", [
    ("R3GR", ["--epochs=many"], "epochs is 'many' (str), it must be int; the default is 15"),
    ("R3GR", ["--epochs=3.5"], "epochs is 3.5 (float), it must be int"),
    ("R3GR", ["--epochs=True"], "epochs is True (bool), it must be int"),
    ("R3GR", ["--epochs=~"], "epochs is None (NoneType), it must be int"),
    ("R3GR", ["--learning_rate=fast"], "learning_rate is 'fast' (str), it must be float"),
    ("R3GR", ["--resume=maybe"], "resume is 'maybe' (str), it must be bool"),
    ("R3GR", ["--checkpoint_dir=3"], "checkpoint_dir is 3 (int), it must be str"),
    ("R3GR", ["--max_minutes=soon"], "max_minutes is 'soon' (str), it must be float"),
    ("R3GR", ["--topk={}"], "topk is {} (dict), it must be list or int"),
    ("R3GR", ["--eval_args=full"], "eval_args is 'full' (str), it must be dict"),
    ("R3VAE", ["--codebook_sizes=8"], "codebook_sizes is 8 (int), it must be list"),
    ("SASRec", ["--epochs=1.5"], "epochs is 1.5 (float), it must be int"),
    ("R3GR", ["--metrics=[Recall, true]"], "metrics is ['Recall', True]: True (bool) must be str; the default is"),
    ("R3GR", ["--metrics==1+1"], "metrics is ['=1+1'], '=1+1' is none; choose among"),
    ("R3GR", ["--metrics=[Recal]"], "'Recal' is none; did you mean 'recall'"),
    ("R3GR", ["--metrics=[]"], "metrics is [], None is none; choose among"),
    ("R3GR", ["--topk=[5, five]"], "topk is [5, 'five']: 'five' (str) must be int"),
    ("R3GR", ["--topk=[0]"], "topk must be a positive integer"),
    ("R3GR", ["--tokenizer=[R3VAE]"], "tokenizer is ['R3VAE'] (list), it must be str"),
    ("R3VAE", ["--codebook_sizes=[8, true]"], "codebook_sizes is [8, True]: True (bool) must be int"),
    ("R3GR", ["--train_batch_size=99999999999999999999"], "train_batch_size is 99999999999999999999; give finite numbers"),
    ("R3GR", ["--MAX_ITEM_LIST_LENGTH=0"], "MAX_ITEM_LIST_LENGTH is 0; give 1 or more"),
    ("SASRec", ["--epochs=-1"], "epochs is -1; give 0 or more"),
    ("R3GR", ["--learning_rate=.nan"], "learning_rate is nan; give finite numbers"),
    ("BPR", ["--embedding_size=big"], "embedding_size is 'big' (str), it must be float"),
])  # fmt: skip
def test_a_value_of_the_wrong_type_names_key_value_and_type(model, words, expected):
    with pytest.raises(UserError) as caught:
        Config(model, "ml-100k", arguments=words)
    assert expected in str(caught.value)


@pytest.mark.parametrize("text, expected", [
    ("epochs: 3\nseed: 1\nepochs: 5\n", "line 1: key 'epochs' comes twice"),
    ("- 1\n", "holds a list"), ("just words", "holds a str"), ("1: 2\n", "the key 1 is no name (int)"),
    ("seed: " + "9" * 5000, "ValueError"), ("seed: !!int x", "ValueError"), ("seed: !!bool x", "KeyError"),
    ("seed: " + "[" * 1000, "RecursionError"), ("seed: &s [*s]", "anchors stand for more than"), ("a: 1\0", "special characters"),
    ("b0: &b0 [1, 1]\n" + "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 12)), "anchors stand for more than"),
])  # fmt: skip
def test_a_settings_file_that_is_none_is_one_line(tmp_path, text, expected):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value) and expected in str(caught.value) and "; write plain `key: value` lines" in str(caught.value)


def test_anchors_within_reason_pass(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {b: [1, 2]}\nc: *a\nd: {<<: *a, e: 3}\n")
    assert load_yaml(path) == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": {"b": [1, 2], "e": 3}}


def test_every_spelling_of_a_right_value_passes():
    words = ["--learning_rate=1", "--num_beams=exact", "--max_minutes=5", "--topk=10", "--valid_metric=NDCG@10", "--gpu_id=", "--run_dir=~"]
    Config("R3GR", "ml-100k", arguments=words)
    Config("R3GR", 2020)  # a folder's name may be a number


@pytest.mark.parametrize("mode", ["uni20", "pop20", {"valid": "full", "test": "uni20"}], ids=str)
def test_a_rule_on_met_items_is_refused_beside_sampled_candidates(mode, tmp_path):
    given = {"eval_args": {"mode": mode}}
    with pytest.raises(UserError, match="valid_rule is stay beside mode uni20|valid_rule is stay beside mode pop20"):
        Config("BPR", "ml-100k", config_dict=given, arguments=["--valid_rule=stay"])
    with pytest.raises(UserError, match="valid_rule is stay beside mode"):
        Config("BPR", "ml-100k", config_dict={**given, "valid_rule": "stay"})
    config = Config("BPR", "ml-100k", config_dict=given)
    assert config["valid_rule"] == "left_out" and config.asked == given
    again = Config(config_dict=config.declared, rebuilds=True)  # every key has a value there, and nobody asked for any
    assert again.declared == config.declared and again.asked == {}
    assert Config("BPR", "ml-100k", arguments=["--valid_rule=stay"])["valid_rule"] == "stay"


def test_a_model_that_does_not_say_what_it_is_trained_on_is_told_how(tmp_path, monkeypatch):
    bases = "from recbole.model.abstract_recommender import SequentialRecommender\n"
    (tmp_path / "silent.py").write_text(f"{bases}class Silent(SequentialRecommender): pass\n")
    (tmp_path / "Silent.yaml").write_text("hidden_size: 8\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="nothing says what Silent is trained on; write `loss_type: CE` .*Silent.yaml, or set `input_type"):
        Config("silent:Silent", "ml-100k")
    (tmp_path / "Silent.yaml").write_text("hidden_size: 8\nloss_type: CE\ntrain_neg_sample_args: ~\n")
    assert Config("silent:Silent", "ml-100k")["loss_type"] == "CE"


def test_a_tokenizer_or_file_that_models_of_ids_have_no_use_for_names_whose_it_is():
    with pytest.raises(UserError, match="--sid_file for model SASRec; models of semantic IDs have it, such as R3GR"):
        Config("SASRec", "ml-100k", arguments=["--sid_file=v.sid"])


def test_settings_in_a_datasets_own_folder_are_the_weakest_of_a_users(tmp_path, caplog, monkeypatch):
    """As ``prepare csv`` leaves them: the run needs no ``--config_files`` to find them, and models without a tokenizer pass its keys over."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dataset" / "mine"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("load_col: {inter: [user_id, item_id, when]}\nTIME_FIELD: when\ncodebook_sizes: [9, 9]\nepohcs: 1\n")
    for keys in ({}, {"data_path": str(tmp_path / "dataset")}):
        config = Config("R3GR", "mine", config_dict=keys)
        assert config["TIME_FIELD"] == "when" and config["load_col"] == {"inter": ["user_id", "item_id", "when"]}
        assert tokenizer_config(config)["codebook_sizes"] == [9, 9]
    file = tmp_path / "more.yaml"
    file.write_text("TIME_FIELD: then\n")
    assert Config("R3GR", "mine", [file])["TIME_FIELD"] == "then"
    assert Config("R3GR", "mine", arguments=["--TIME_FIELD=later"])["TIME_FIELD"] == "later"
    caplog.clear()
    assert Config("BSARec", "mine")["TIME_FIELD"] == "when"
    assert "mine.yaml, ignored: epohcs; did you mean 'epochs'?" in caplog.text and "codebook_sizes" not in caplog.text
    caplog.clear()
    declared = Config("BSARec", "mine").declared  # as a checkpoint keeps it
    caplog.clear()
    assert Config(config_dict=declared)["TIME_FIELD"] == "when" and "ignored: codebook_sizes" not in caplog.text
    assert Config("R3GR", "other")["TIME_FIELD"] == "timestamp"
