"""Tomorrow's items get the semantic IDs that today's would have had, and today's keep theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_r3vae.cli import main
from recbole_r3vae.data.content import load_encoder
from recbole_r3vae.data.content.vectors import VectorFile
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.semantic_ids import ENCODER, load_tokenizer
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.serve.tokenize import tokenize_items
from recbole_r3vae.sid.table import SemanticIDs


@pytest.fixture
def twins(tiny_data, tmp_path) -> Path:
    """The catalogue's own items under new names, ten of them, and one old item."""
    items = pd.read_csv(tiny_data / "tiny" / "tiny.item", sep="\t", dtype=str, keep_default_na=False)
    new = items[:10].assign(**{"item_id:token": "new " + items["item_id:token"][:10]})
    pd.concat([new, items[10:11]]).to_csv(tmp_path / "new.item", sep="\t", index=False)
    return tmp_path / "new.item"


def test_new_items_get_their_twins_codes(checkpoint, twins, tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_r3vae.data.item_file.ROWS", 4)  # several blocks
    done = tokenize_items(checkpoint(), twins, tmp_path / "new.sid")
    sids = SemanticIDs.load(tmp_path / "new.sid")
    raw = load_tokenizer(checkpoint() / "tokenizer").raw
    old = Recommender(checkpoint()).served
    names = [name.removeprefix("new ") for name in sids.item_ids[1:]]
    assert done.known == 1 and len(names) == 10 and sids.codebook_sizes == old.sids.codebook_sizes
    assert torch.equal(sids.codes[1:, :3], raw.align(["[PAD]", *names]).codes[1:])
    assert done.moved == 10 and done.shared == 0  # each finds its twin's place taken
    everyone = [tuple(row) for row in torch.cat([old.sids.codes[1:], sids.codes[1:]]).tolist()]
    assert len(set(everyone)) == len(everyone)
    file = VectorFile(tmp_path / "new.npy")
    vectors = np.concatenate(list(file.unit_blocks(file.rows_of(sids.item_ids[1:]))))
    assert np.allclose(vectors, old.model.sources.content.embeddings[[old.row_of[name] for name in names]], atol=1e-5)

    recommender = Recommender(checkpoint(), {"num_beams": "exact"})
    before = recommender.recommend([["50"]], k=148)
    assert recommender.add_items(tmp_path / "new.sid") == 10
    after = recommender.recommend([["50"]], k=158).set_index("item")["score"]
    assert np.allclose(after[before["item"]], before["score"], atol=1e-5) and set(sids.item_ids[1:]) <= set(after.index)


def test_new_items_get_the_template_of_the_old_ones(checkpoint, twins, tmp_path):
    template = "{movie_title}. Genres: {class:, }"
    folder = checkpoint(item_text_template=template)
    made = tokenize_items(folder, twins, tmp_path / "new.sid").sids
    encoder = load_encoder(folder / "tokenizer" / ENCODER)
    assert str(encoder.template) == "{movie_title: }. Genres: {class:, }"
    items = pd.read_csv(twins, sep="\t", dtype=str, keep_default_na=False)
    rows = (items.iloc[at] for at in range(10))
    texts = [f"{row['movie_title:token_seq']}. Genres: {', '.join(row['class:token_seq'].split())}" for row in rows]
    assert np.allclose(np.load(tmp_path / "new.npy"), encoder.encoder.transform(texts), atol=1e-6)
    old = Recommender(folder).served
    names = [name.removeprefix("new ") for name in made.item_ids[1:]]
    assert np.allclose(np.load(tmp_path / "new.npy"), old.model.sources.content.embeddings[[old.row_of[name] for name in names]], atol=1e-5)
    items.drop(columns="class:token_seq").to_csv(tmp_path / "untagged.item", sep="\t", index=False)
    tokenize_items(folder, tmp_path / "untagged.item", tmp_path / "untagged.sid")
    titles = items["movie_title:token_seq"][:10].tolist()
    assert np.allclose(np.load(tmp_path / "untagged.npy"), encoder.encoder.transform(titles), atol=1e-6)


DENSE = {"rank_by": "dense", "tokenizer": "OPQ", "tokenizer_codebook_sizes": [8, 8, 8, 8], "repeat_prior": True}


def test_new_items_of_a_dense_head_share_codes_as_the_old_ones_do(checkpoint, twins, tmp_path):
    """Nobody has to name a policy: the run's key says suffix, which is for decoders."""
    folder = checkpoint(**DENSE)
    done = tokenize_items(folder, twins, tmp_path / "new.sid")
    old = Recommender(folder).served
    names = [name.removeprefix("new ") for name in done.sids.item_ids[1:]]
    assert (done.moved, done.shared) == (0, 10) and not done.sids.ordered
    assert torch.equal(done.sids.codes[1:], old.sids.codes[[old.row_of[name] for name in names]])
    recommender = Recommender(folder)
    assert recommender.add_items(tmp_path / "new.sid") == 10
    stranger = next(name for name in old.item_ids[1:] if name not in names)  # the prior would tell a met item from its twin
    scores = recommender.recommend([[stranger]], k=158).set_index("item")["score"]
    assert scores[[f"new {name}" for name in names]].to_numpy() == pytest.approx(scores[names].to_numpy(), abs=1e-5)


def test_codes_without_an_order_stay_so_beside_a_tokenizer(checkpoint, twins, tmp_path):
    folder = checkpoint(**DENSE) / "tokenizer"
    assert not tokenize_items(folder, twins, tmp_path / "shared.sid", policy="share").sids.ordered
    assert tokenize_items(folder, twins, tmp_path / "suffixed.sid", policy="suffix").sids.ordered


def test_vectors_instead_of_texts(checkpoint, twins, tmp_path):
    tokenize_items(checkpoint(), twins, tmp_path / "new.sid")
    done = tokenize_items(checkpoint(), tmp_path / "new.npy", tmp_path / "again.sid")
    assert (tmp_path / "again.sid").read_text() == (tmp_path / "new.sid").read_text() and done.known == 0
    with pytest.raises(UserError, match="choose another name"):
        tokenize_items(checkpoint(), tmp_path / "new.npy", tmp_path / "new.sid")
    np.save(tmp_path / "short.npy", np.ones((1, 5), dtype=np.float32))
    (tmp_path / "short.ids").write_text("n\n")
    with pytest.raises(UserError, match="length 5, the tokenizer takes 32"):
        tokenize_items(checkpoint(), tmp_path / "short.npy", tmp_path / "out.sid")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("policy", ["reassign", "share"])
def test_the_runs_policy_decides(checkpoint, twins, tmp_path, policy):
    folder = checkpoint(collision_policy=policy, codebook_sizes=[8, 8, 16], item_inputs=["codes"])
    done = tokenize_items(folder, twins, tmp_path / "new.sid")
    old, sids = Recommender(folder).served.sids, done.sids
    twin = old.align(["[PAD]", *(name.removeprefix("new ") for name in sids.item_ids[1:])])
    assert torch.equal(sids.codes[:, :-1], twin.codes[:, :-1])
    everyone = {tuple(row) for row in torch.cat([old.codes, sids.codes[1:]]).tolist()}
    assert done.shared == (10 if policy == "share" else 0) and len(everyone) == len({*map(tuple, old.codes.tolist())}) + 10 - done.shared


def test_items_of_a_full_prefix_share_evenly(checkpoint, twins, tmp_path):
    """A generator has no embedding of further extra codes; the count says so, and the file can be added as any other."""
    items = pd.read_csv(twins, sep="\t", dtype=str, keep_default_na=False)
    old = Recommender(checkpoint()).served.sids
    n_codes = old.codebook_sizes[-1]
    many = pd.concat([items[:1].assign(**{"item_id:token": f"copy {i}"}) for i in range(2 * n_codes)])
    many.to_csv(tmp_path / "many.item", sep="\t", index=False)
    done = tokenize_items(checkpoint(), tmp_path / "many.item", tmp_path / "many.sid")
    prefix = done.sids.codes[1, :3]
    group = torch.cat([old.codes, done.sids.codes])
    group = group[(group[:, :3] == prefix).all(1)]
    n_old = len(group) - 2 * n_codes
    assert done.shared == n_codes + n_old and group[:, 3].bincount(minlength=n_codes).min() >= 2
    assert group[:, 3].bincount().max() <= 3
    assert Recommender(checkpoint()).add_items(tmp_path / "many.sid") == 2 * n_codes
    shared = tokenize_items(checkpoint(), tmp_path / "many.item", tmp_path / "shared.sid", policy="share")
    assert (shared.sids.codes[1:, 3] == 0).all() and shared.shared == 2 * n_codes
    assert Recommender(checkpoint()).add_items(tmp_path / "shared.sid") == 2 * n_codes  # the policy is in the file


def test_items_of_yesterday_keep_their_places(checkpoint, twins, tmp_path):
    first = tokenize_items(checkpoint(), twins, tmp_path / "day1.sid").sids
    items = pd.read_csv(twins, sep="\t", dtype=str, keep_default_na=False)
    items.assign(**{"item_id:token": "newer " + items["item_id:token"]}).to_csv(tmp_path / "day2.item", sep="\t", index=False)
    second = tokenize_items(checkpoint(), tmp_path / "day2.item", tmp_path / "day2.sid", add=[tmp_path / "day1.sid"])
    taken = {tuple(row) for row in torch.cat([Recommender(checkpoint()).served.sids.codes, first.codes]).tolist()}
    assert sum(tuple(row) in taken for row in second.sids.codes[1:].tolist()) == second.shared < 5
    with pytest.raises(UserError, match="nothing to tokenize"):
        tokenize_items(checkpoint(), twins, tmp_path / "again.sid", add=[tmp_path / "day1.sid"])
    recommender = Recommender(checkpoint())
    assert [recommender.add_items(tmp_path / name) for name in ("day1.sid", "day2.sid")] == [10, 11]


def test_a_tokenizers_own_folder(checkpoint, twins, tmp_path):
    of_run = tokenize_items(checkpoint(), twins, tmp_path / "run.sid").sids
    alone = tokenize_items(checkpoint() / "tokenizer", twins, tmp_path / "alone.sid").sids
    names = of_run.item_ids
    assert torch.equal(alone.align(names).codes, of_run.codes) and alone.codebook_sizes == of_run.codebook_sizes


def test_the_command(checkpoint, twins, tmp_path, capsys):
    words = ["tokenize", "--checkpoint", checkpoint(), "--items", twins, "--output", tmp_path / "new.sid"]
    assert main([str(word) for word in words]) == 0
    assert "10 new items" in capsys.readouterr().out
    words = ["recommend", "--checkpoint", checkpoint(), "--history", "50", "--topk", 158, "--num_beams", "exact"]
    assert main([str(word) for word in [*words, "--add", tmp_path / "new.sid", "--output", tmp_path / "out.csv"]]) == 0
    assert pd.read_csv(tmp_path / "out.csv", dtype={"item": str})["item"].str.startswith("new ").sum() == 10


def test_what_does_not_fit_is_refused(checkpoint, twins, tmp_path, capsys):
    items = pd.read_csv(twins, sep="\t", dtype=str, keep_default_na=False)
    items[10:].to_csv(tmp_path / "old.item", sep="\t", index=False)
    items.iloc[[0, 0]].to_csv(tmp_path / "twice.item", sep="\t", index=False)
    for path, message in (("old.item", "nothing to tokenize"), ("twice.item", "line 3: .* stands in line 2 already"), ("absent.item", "cannot read")):
        with pytest.raises(UserError, match=message):
            tokenize_items(checkpoint(), tmp_path / path, tmp_path / "out.sid")
    with pytest.raises(UserError, match="no semantic IDs"):
        tokenize_items(checkpoint("SASRec"), twins, tmp_path / "out.sid")
    codes = torch.arange(-1, 148)[:, None]
    SemanticIDs(codes, (148,), Recommender(checkpoint()).served.item_ids).save(tmp_path / "mine.sid")
    foreign = checkpoint(sid_file=str(tmp_path / "mine.sid"), item_inputs=["codes"])
    with pytest.raises(UserError, match="came from sid_file"):
        tokenize_items(foreign, twins, tmp_path / "out.sid")
    assert not list(tmp_path.glob("out*"))
    for words in (["--items", "x.item"], ["--embeddings", "v.npy", "--checkpoint", "c"]):
        assert main(["tokenize", *words, "--output", "o.sid"]) == 2
        assert "--items goes with --checkpoint; give both" in capsys.readouterr().err


def test_new_items_of_a_model_that_reads_some_of_its_tokenizers_modalities(checkpoint, twins, tmp_path):
    encoders = {name: {"encoder": "tfidf-svd", "fields": [name], "dim": dim} for name, dim in (("movie_title", 8), ("class", 6))}
    folder = checkpoint(content_encoder=encoders, item_inputs=["codes", "class"])
    made = tokenize_items(folder, twins, tmp_path / "new.sid").sids
    recommender = Recommender(folder)
    assert VectorFile(tmp_path / "new.npy").dim == 14 and recommender.add_items(tmp_path / "new.sid") == 10
    served = recommender.served
    vectors = served.model.sources.content.embeddings
    assert vectors.shape[1] == 6 == served.model.items.content.shape[1]
    rows, twins_of = zip(*((served.row_of[name], served.row_of[name.removeprefix("new ")]) for name in made.item_ids[1:]))
    assert np.allclose(vectors[list(rows)], vectors[list(twins_of)], atol=1e-5) and np.abs(vectors[list(rows)]).sum() > 1


def test_new_items_of_several_modalities(tiny_settings, twins, tmp_path):
    encoders = {name: {"encoder": "tfidf-svd", "fields": [name], "dim": dim} for name, dim in (("movie_title", 8), ("class", 6))}
    folder = Path(run_recbole_r3vae("RKMeans", "tiny", config_dict={**tiny_settings, "epochs": 0, "content_encoder": encoders})["run_dir"])
    made = tokenize_items(folder, twins, tmp_path / "new.sid").sids
    raw = load_tokenizer(folder).raw.align(["[PAD]", *(name.removeprefix("new ") for name in made.item_ids[1:])])
    assert torch.equal(made.codes[:, :3], raw.codes)
    vectors = np.load(tmp_path / "new.npy")
    np.save(tmp_path / "scaled.npy", vectors * np.repeat([3.0, 0.2], (8, 6)))
    (tmp_path / "scaled.ids").write_text((tmp_path / "new.ids").read_text())
    assert torch.equal(tokenize_items(folder, tmp_path / "scaled.npy", tmp_path / "again.sid").sids.codes, made.codes)
    assert np.allclose(np.load(tmp_path / "again.npy"), vectors, atol=1e-6)


def test_new_items_need_the_vectors_of_a_modality_from_a_file(tiny_settings, twins, tmp_path, tiny_data):
    ids = pd.read_csv(tiny_data / "tiny" / "tiny.item", sep="\t", dtype=str)["item_id:token"]
    np.savez(tmp_path / "image.npz", np.random.default_rng(0).normal(size=(len(ids), 4)))
    (tmp_path / "image.ids").write_text("\n".join(ids) + "\n")
    given = {**tiny_settings, "epochs": 0, "content_encoder": ["tfidf-svd", "file"], "content_file": str(tmp_path / "image.npz")}
    folder = run_recbole_r3vae("RKMeans", "tiny", config_dict=given)["run_dir"]
    with pytest.raises(UserError, match=r"modality image came from a file.*give new items as vectors .*: text 32, image 4 columns"):
        tokenize_items(folder, twins, tmp_path / "new.sid")
    np.savez(tmp_path / "new.npz", np.ones((2, 36)))
    (tmp_path / "new.ids").write_text("n\nm\n")
    assert tokenize_items(folder, tmp_path / "new.npz", tmp_path / "out.sid").sids.n_items == 3
    assert np.allclose(np.square(np.load(tmp_path / "out.npy")).sum(1), 2)
