"""Work in shards gives what the same work gives in one piece, and goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from recbole_r3vae.cli import main
from recbole_r3vae.data.content import load_encoder
from recbole_r3vae.data.item_file import read_items
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start.semantic_ids import ENCODER, load_tokenizer
from recbole_r3vae.serve.pack import pack_run
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.serve.sharded import Engine, embed_shards, gather, read_manifest, read_parts, recommend_shards, tokenize_shards
from recbole_r3vae.serve.sharded import jobs, shards
from recbole_r3vae.serve.sharded.shards import Shard
from recbole_r3vae.serve.tokenize import tokenize_items
from recbole_r3vae.sid.table import SemanticIDs

pyarrow = pytest.importorskip("pyarrow", reason="work in shards reads and writes Parquet: pip install '.[ray]'")

HERE = Engine()


def frame_of(folder) -> pd.DataFrame:
    return pyarrow.concat_tables(read_parts(folder)).to_pandas()


@pytest.mark.parametrize("kind", ["text", "vectors"])
@pytest.mark.parametrize("policy", ["suffix", "reassign", "share"])
def test_semantic_ids_are_those_of_one_process(checkpoint, new_items, tmp_path, monkeypatch, policy, kind):
    monkeypatch.setattr(shards, "ROWS", 7)
    monkeypatch.setattr("recbole_r3vae.serve.sharded.run.ROWS", 3)
    folder = checkpoint(collision_policy=policy, codebook_sizes=[8, 8, 48])
    whole, items = new_items
    if kind == "vectors":  # each in its place: npy in one process, npy in shards
        alone = tokenize_items(folder, whole, tmp_path / "text.sid")
        (tmp_path / "v").mkdir()
        vectors = np.load(tmp_path / "text.npy")
        np.save(tmp_path / "v" / "v.npy", 3 * vectors)
        (tmp_path / "v" / "v.ids").write_text((tmp_path / "text.ids").read_text())
        whole, items = tmp_path / "v" / "v.npy", tmp_path / "v"
    alone = tokenize_items(folder, whole, tmp_path / "alone.sid")
    made = tokenize_shards(folder, items, tmp_path / "out", HERE, shard_rows=11)
    assert (made["known"], made["moved"], made["shared"]) == (alone.known, alone.moved, alone.shared)
    assert made["rows"] == 50 and len(made["shards"]) == 5 and alone.known == (10 if kind == "text" else 0)
    together = gather(tmp_path / "out", tmp_path / "together.sid")
    assert together.item_ids == alone.sids.item_ids and together.content_hash == alone.sids.content_hash and together.meta == alone.sids.meta
    for ending in (".sid", ".sid.json", ".ids"):
        assert (tmp_path / f"together{ending}").read_bytes() == (tmp_path / f"alone{ending}").read_bytes()
    assert np.allclose(np.load(tmp_path / "together.npy"), np.load(tmp_path / "alone.npy"), atol=1e-6)
    table = frame_of(tmp_path / "out")
    assert list(table) == ["item_id", *(f"sid_{level + 1}" for level in range(together.n_levels)), "vector"]
    assert not (tmp_path / "out" / ".raw").exists()
    recommender = Recommender(folder)
    assert recommender.add_items(tmp_path / "together.sid") == 50


def test_items_that_came_before_keep_their_places(checkpoint, new_items, tmp_path):
    whole, items = new_items
    lines = whole.read_text().splitlines(keepends=True)
    (tmp_path / "first.item").write_text("".join(lines[:31]))
    first = tokenize_items(checkpoint(), tmp_path / "first.item", tmp_path / "first.sid")
    made = tokenize_shards(checkpoint(), items, tmp_path / "out", HERE, add=[tmp_path / "first.sid"])
    alone = tokenize_items(checkpoint(), whole, tmp_path / "rest.sid", add=[tmp_path / "first.sid"])
    assert made["known"] == 10 + first.sids.n_items - 1 == alone.known
    assert gather(tmp_path / "out", tmp_path / "g.sid").content_hash == alone.sids.content_hash


def test_tokenizing_goes_on_where_it_stopped(checkpoint, new_items, tmp_path, monkeypatch):
    done, tokenize = [], jobs.Tokenize.open

    def dies_at(number):
        def open(self):
            work = tokenize(self)

            def some(shard):
                if shard.number == number:
                    raise KeyboardInterrupt
                done.append(shard.number)
                return work(shard)

            return some

        return open

    monkeypatch.setattr(jobs.Tokenize, "open", dies_at(3))
    with pytest.raises(KeyboardInterrupt):
        tokenize_shards(checkpoint(), new_items[1], tmp_path / "out", HERE)
    with pytest.raises(UserError, match="incomplete"):
        gather(tmp_path / "out", tmp_path / "no.sid")
    monkeypatch.setattr(jobs.Tokenize, "open", dies_at(None))
    made = tokenize_shards(checkpoint(), new_items[1], tmp_path / "out", HERE)
    assert done == [0, 1, 2, 3, 4] and made["rows"] == 50
    assert tokenize_shards(checkpoint(), new_items[1], tmp_path / "out", HERE) == made and len(done) == 5
    alone = tokenize_items(checkpoint(), new_items[0], tmp_path / "a.sid").sids
    assert gather(tmp_path / "out", tmp_path / "g.sid").content_hash == alone.content_hash
    with pytest.raises(UserError, match="shards of other work"):
        tokenize_shards(checkpoint(), new_items[1], tmp_path / "out", HERE, policy="share")


def test_items_that_come_twice_or_are_all_known(checkpoint, new_items, tmp_path, write_files):
    twice = write_files(tmp_path / "twice", {"item_id": ["x", "y", "x"], "movie_title": ["A", "B", "C"]}, [2, 1])
    with pytest.raises(UserError, match="item 'x' comes twice"):
        tokenize_shards(checkpoint(), twice, tmp_path / "out", HERE)
    known = write_files(tmp_path / "known", {"item_id": ["50"], "movie_title": ["Star Wars"]}, [1])
    with pytest.raises(UserError, match="all 1 items of .* nothing to tokenize"):
        tokenize_shards(checkpoint(), known, tmp_path / "known_out", HERE)
    strange = write_files(tmp_path / "strange", {"item_id": ["a"], "color": ["red"]}, [1])
    with pytest.raises(UserError, match="none of the text fields movie_title, class"):
        tokenize_shards(checkpoint(), strange, tmp_path / "strange_out", HERE)


def test_a_tokenizer_of_vectors_reads_no_texts(vectors, new_items, tmp_path):
    folder = vectors(40, 8)
    assert main(["tokenize", "--embeddings", str(folder / "v.npy"), "--output", "v.sid", "--tokenizer=RKMeans", "--set", "codebook_sizes=[4,4]"]) == 0
    [trained] = Path("saved").glob("*/RKMeans-*/tokenizer.json")
    with pytest.raises(UserError, match="needs a column 'vector'"):
        tokenize_shards(trained.parent, new_items[1], tmp_path / "out", HERE)
    with pytest.raises(UserError, match="has no text encoder"):
        embed_shards(new_items[1], tmp_path / "vectors_out", HERE, trained.parent)


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(score=frame["score"].round(4)).reset_index(drop=True)


def test_recommendations_are_those_of_one_process(checkpoint, history_shards, histories, tmp_path):
    expected = Recommender(checkpoint()).recommend(histories, k=5, exclude_seen=True)
    made = recommend_shards(checkpoint(), tmp_path / "out", HERE, history_shards, topk=5, exclude_seen=True)
    assert made["rows"] == len(expected) and len(made["shards"]) == 5
    found = frame_of(tmp_path / "out")
    assert list(found) == list(expected) and rounded(found).equals(rounded(expected))


def test_rows_without_a_user_are_numbered_over_all_shards(checkpoint, histories, tmp_path, write_files):
    some = list(histories.values())[:7]
    texts = write_files(tmp_path / "texts", {"history": [" ".join(items) for items in some]}, [3, 4], rows_a_group=2)
    recommend_shards(checkpoint(), tmp_path / "out", HERE, texts, topk=3)
    found, expected = frame_of(tmp_path / "out"), Recommender(checkpoint()).recommend(some, k=3)
    assert found["row"].dtype == np.int64 and rounded(found).equals(rounded(expected))
    numbers = write_files(tmp_path / "numbers", {"history": [[int(item) for item in items] for items in some]}, [7])
    recommend_shards(checkpoint(), tmp_path / "again", HERE, numbers, topk=3)
    assert rounded(frame_of(tmp_path / "again")).equals(rounded(found))


def test_all_users_in_shards(checkpoint, tmp_path):
    made = recommend_shards(checkpoint("BPR"), tmp_path / "out", HERE, shard_rows=25, topk=4, as_of="now")
    recommender = Recommender(checkpoint("BPR"))
    expected = recommender.recommend(users=recommender.users.users(), k=4)
    assert rounded(frame_of(tmp_path / "out")).equals(rounded(expected))
    assert [part["source"] for part in made["shards"]] == ["users[0:25]", "users[25:50]", "users[50:60]"]


def test_items_that_come_and_go_and_that_may(checkpoint, new_items, history_shards, histories, tmp_path):
    new = tokenize_items(checkpoint(), new_items[0], tmp_path / "new.sid").sids.item_ids[1:]
    how = {"add": (str(tmp_path / "new.sid"),), "remove": ("50",), "allow": ("50", "100", *new)}
    recommend_shards(checkpoint(), tmp_path / "out", HERE, history_shards, topk=5, **how)
    recommender = Recommender(checkpoint())
    recommender.add_items(tmp_path / "new.sid")
    recommender.remove_items(["50"])
    expected = recommender.recommend(histories, k=5, allow=how["allow"])
    assert rounded(frame_of(tmp_path / "out")).equals(rounded(expected)) and expected["item"].str.startswith("new").any()


def test_a_shard_without_known_items_is_empty_and_no_known_item_at_all_an_error(checkpoint, tmp_path, write_files, caplog):
    columns = {"user": ["a", "b", "c"], "history": [["50", "zzz"], ["xxx"], []]}
    made = recommend_shards(checkpoint(), tmp_path / "out", HERE, write_files(tmp_path / "h", columns, [1, 1, 1]), topk=2)
    assert [part["rows"] for part in made["shards"]] == [2, 0, 0] and frame_of(tmp_path / "out")["user"].tolist() == ["a", "a"]
    assert "passed over: 2, in 2 histories; histories without any known item, which get no recommendations: 2" in caplog.text
    assert caplog.text.count("passed over") == 1
    unknown = write_files(tmp_path / "u", {"history": [["xxx"], ["yyy"]]}, [1, 1])
    with pytest.raises(UserError, match="knows none of its items"):
        recommend_shards(checkpoint(), tmp_path / "none", HERE, unknown)
    nameless = write_files(tmp_path / "n", {"user": [None], "history": [["50"]]}, [1])
    with pytest.raises(UserError, match="no id"):
        recommend_shards(checkpoint(), tmp_path / "nameless", HERE, nameless)
    with pytest.raises(UserError, match="no column 'history'"):
        recommend_shards(checkpoint(), tmp_path / "wrong", HERE, write_files(tmp_path / "w", {"items": [["50"]]}, [1]))


def test_vectors_of_shards_are_those_of_the_encoder(checkpoint, new_items, tmp_path):
    made = embed_shards(new_items[1], tmp_path / "out", HERE, checkpoint())
    encoder = load_encoder(checkpoint() / "tokenizer" / ENCODER)
    [(names, records)] = read_items(new_items[0], encoder.fields)
    found = frame_of(tmp_path / "out")
    assert found["item_id"].tolist() == names and made["rows"] == 60
    assert np.allclose(np.stack(found["vector"]), encoder.encode(records), atol=1e-6)
    tokenizer = load_tokenizer(checkpoint() / "tokenizer").folder
    assert embed_shards(new_items[1], tmp_path / "out", HERE, tokenizer) == made  # the same encoder
    tokenize_shards(checkpoint(), tmp_path / "out", tmp_path / "of_vectors", HERE)  # what it wrote, it reads
    tokenize_shards(checkpoint(), new_items[1], tmp_path / "of_texts", HERE)
    found = [frame_of(tmp_path / name) for name in ("of_vectors", "of_texts")]
    assert found[0].drop(columns="vector").equals(found[1].drop(columns="vector"))


class Lengths:
    """A sentence encoder that knows how long a text is."""

    def __init__(self, name, device=None):
        assert name == "some/encoder"

    def encode(self, texts, **how):
        return np.array([[1.0, 0.0] if len(text) % 2 else [0.0, 1.0] for text in texts])


def test_texts_are_for_the_run_that_was_packed(checkpoint, new_items, tmp_path):
    pack_run(checkpoint(), tmp_path / "packed")
    with pytest.raises(UserError, match="it was packed; give the run that it was packed from"):
        embed_shards(new_items[1], tmp_path / "out", HERE, tmp_path / "packed")


def test_a_sentence_encoder_needs_no_run(new_items, tmp_path, monkeypatch):
    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = Lengths
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", module)
    words = ["--content_encoder=sentence-transformers/some/encoder", "--item_text_fields=[movie_title]"]
    assert main(["embed", "--items", str(new_items[1]), "--output", "out", "--engine=local", *words]) == 0
    blocks = [block for shard in shards.shards_of(new_items[1]) for block in shards.read_records(shard, "item_id", ["movie_title"])]
    titles = [title for _, rows in blocks for title in rows]
    expected = [[1.0, 0.0] if len(title["movie_title"]) % 2 else [0.0, 1.0] for title in titles]
    assert np.stack(frame_of("out")["vector"]).tolist() == expected
    job = jobs.Embed(None, "some/encoder", ("movie_title",))
    assert job.uses_gpu and not jobs.Embed(None, "folder").uses_gpu and not jobs.Embed(None, "x", ("a",), device="cpu").uses_gpu


def test_the_command_line(checkpoint, new_items, history_shards, tmp_path, capfd):
    run = ["--checkpoint", str(checkpoint())]
    assert main(["tokenize", *run, "--items", str(new_items[1]), "--output", "sids", "--engine=local"]) == 0
    assert main(["convert", "--input", "sids", "--output", "new.sid"]) == 0
    assert SemanticIDs.load("new.sid").n_items == 51
    recommend = ["recommend", *run, "--output", "out", "--engine=local", "--topk=3"]
    assert main([*recommend, "--input", str(history_shards), "--add", "new.sid"]) == 0
    assert main(["recommend", *run, "--output", "everyone", "--engine=local", "--users=all", "--shard_rows=50", "--topk=3"]) == 0
    shown = capfd.readouterr().out
    assert "50 new items in 5 shards: sids; 10 known ones passed over" in shown and "180 recommendations in 5 shards: out" in shown
    assert "180 recommendations in 2 shards: everyone" in shown
    assert json.loads(Path("everyone/manifest.json").read_text()) == read_manifest("everyone")


@pytest.mark.parametrize("words, message", [
    (["recommend", "--checkpoint=x", "--users=all", "--address=auto"], "--address is about work in shards"),
    (["recommend", "--checkpoint=x", "--users=all", "--engine=local", "--address=auto", "--output=o"], "--address and --workers are about Ray"),
    (["recommend", "--checkpoint=x", "--users=1,2", "--engine=local", "--output=o"], "--engine recommends to all users or to shards"),
    (["recommend", "--checkpoint=x", "--users=all", "--engine=local"], "--engine recommends to all users or to shards"),
    (["recommend", "--checkpoint=x", "--users=all", "--engine=local", "--output=o", "--shard_rows=0"], "--shard_rows is 0"),
    (["tokenize", "--embeddings=v.npy", "--output=o", "--engine=local"], "--engine is about new items"),
    (["tokenize", "--checkpoint=x", "--items=i", "--ids=f", "--output=o", "--engine=local"], "--ids names the ids of one file"),
    (["embed", "--dataset=tiny", "--output=o", "--engine=local"], "--engine goes with --items"),
    (["embed", "--items=i", "--output=o"], "--engine goes with --items"),
    (["embed", "--items=i", "--output=o", "--engine=local"], "give the --checkpoint of a run"),
    (["embed", "--items=i", "--checkpoint=x", "--output=o", "--engine=local", "--content_dim=3"], "--content_dim=3 says how to embed"),
    (["embed", "--dataset=tiny", "--checkpoint=x", "--output=o"], "--checkpoint goes with --items"),
])  # fmt: skip
def test_words_that_do_not_go_together(words, message, capfd):
    assert main(words) == 2
    assert message in capfd.readouterr().err
    assert not Path("o").exists()


def test_jobs_travel(checkpoint, tmp_path):
    """As a pickle to other machines; and a recommender's own device says whether it takes a GPU."""
    import pickle

    job = jobs.Recommend(SimpleNamespace(path="x"), str(checkpoint()), {"device": "cpu"})
    assert pickle.loads(pickle.dumps(job)) == job and not job.uses_gpu and jobs.Recommend(None, "x").uses_gpu
    assert not jobs.Tokenize(None, "x").uses_gpu and Shard(1, "a/b.npy", 2, 5, 7).rows == 3
