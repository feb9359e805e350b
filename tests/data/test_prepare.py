"""``prepare`` on tiny files in the exact raw formats, and RecBole reading what it wrote."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import signal
import sys
import threading
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from recbole.config import Config
from recbole.data.dataset import Dataset

import recbole_r3vae  # noqa: F401  (shims for RecBole)
from recbole_r3vae.data import atomic_files
from recbole_r3vae.data import prepare as prepare_module
from recbole_r3vae.data.prepare import DATASETS, add_prepare_arguments, k_core, prepare, run_prepare
from recbole_r3vae.data.raw import files as raw_files
from recbole_r3vae.data.raw.files import RawFile, clean_text, name_sequence
from recbole_r3vae.errors import UserError

PROPERTIES = Path(__file__).parents[2] / "properties" / "dataset"


# ---- raw files as published


def review(user, item, time=1390089600, rating=5.0):
    return json.dumps(
        {
            "reviewerID": user,
            "asin": item,
            "reviewerName": "Andrea",
            "helpful": [3, 4],
            "reviewText": 'Very "oily"\tand creamy.',
            "overall": rating,
            "summary": "Don't waste your money",
            "unixReviewTime": time,
            "reviewTime": "01 30, 2014",
        }
    )


# Lines of the 2014 metadata as they are: Python literals, with the escapes that repr() wrote.
META = r"""
{'asin': 'B0001', 'categories': [['Beauty', 'Hair Care', 'Styling Products'], ['Health & Personal Care', 'Hair Care']], 'description': "It's a \"gel\".\n\tStrong &amp; light \xe9clat.", 'title': '"Gel" \u2013 Mega &quot;Hold&quot;', 'price': 7.5, 'salesRank': {'Beauty': 376041}, 'imUrl': 'http://g-ecx.images-amazon.com/a.jpg', 'brand': "L'Oreal Paris"}
{'asin': 'B0002', 'related': {'also_viewed': ['B0001', "B0003"]}, 'categories': [['Beauty']], 'title': 'Soap\ud83d\ude00 \ud83d end'}
{'asin': 'B0009', 'title': 'nobody bought it', 'categories': [['Beauty']]}
{"asin": "B0003", "title": "Strict JSON", "brand": "Acme", "price": "$3.99", "categories": [["Beauty", "Nails"]], "description": ["two", "parts"]}
""".strip()  # noqa: E501


def write(path, text, encoding="utf-8"):
    data = text if isinstance(text, bytes) else text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def amazon(tmp_path):
    """Sources of a small Amazon set: three users, each with the same four items; the metadata lacks B0004."""
    bought = ("B0003", "B0001", "B0002", "B0004")
    lines = [review(u, i, 1390089600 + 86400 * day) for day, i in enumerate(bought) for u in "UVW"]
    lines.append(review("X", "B0009"))  # leaves with the k-core
    return {
        "reviews": write(tmp_path / "reviews_Beauty_5.json.gz", "\n".join(lines) + "\n"),
        "meta": write(tmp_path / "meta_Beauty.json.gz", META + "\n"),
    }


def run(dataset, sources, tmp_path, **options):
    options = {"output": tmp_path / "out", "kcore": 0, "show_progress": False} | options
    return prepare(dataset, sources, **options)


def table(tmp_path, dataset, suffix):
    """An atomic file as header and rows, split without any reader's cleverness."""
    text = (tmp_path / "out" / dataset / f"{dataset}.{suffix}").read_bytes().decode("utf-8")
    header, *rows = (line.split("\t") for line in text.removesuffix("\n").split("\n"))
    assert all(len(row) == len(header) for row in rows)
    return header, rows


def load(dataset, data_path, monkeypatch, core=None):
    """RecBole's own reading of a data set with this package's YAML for it, at another core where given."""
    monkeypatch.setattr(sys, "argv", ["pytest"])  # RecBole takes --key=value from whoever runs it
    options = {"data_path": str(data_path), "gpu_id": "", "state": "ERROR"}
    if core is not None:
        options |= {"user_inter_num_interval": core, "item_inter_num_interval": core}
    properties = str(PROPERTIES / f"{dataset}.yaml")
    return Dataset(Config("BPR", dataset, config_file_list=[properties], config_dict=options))


def words(loaded, item, field):
    """A field of an item as RecBole holds it."""
    row = loaded.item_feat[loaded.item_feat["item_id"] == loaded.token2id("item_id", item)].iloc[0][field]
    ids = [row] if np.isscalar(row) else list(row)
    return [str(loaded.id2token(field, int(i))) for i in ids]


# ---- Amazon


def test_amazon_files_hold_the_cleaned_fields(amazon, tmp_path):
    summary = run("amazon-beauty", amazon, tmp_path, kcore=3)
    header, rows = table(tmp_path, "amazon-beauty", "inter")
    assert header == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    assert rows[:2] == [["U", "B0003", "5", "1390089600"], ["V", "B0003", "5", "1390089600"]]
    assert len(rows) == 12 and {row[0] for row in rows} == set("UVW")

    header, rows = table(tmp_path, "amazon-beauty", "item")
    fields = "item_id:token title:token_seq brand:token categories:token_seq price:float description:token"
    assert header == fields.split()
    assert {row[0]: row[1:] for row in rows} == {
        "B0001": [
            'Gel" – Mega "Hold"',
            "L'Oreal Paris",
            "Beauty Hair_Care Styling_Products Health_&_Personal_Care",
            "7.5",
            'It\'s a "gel". Strong & light éclat.',
        ],
        "B0002": ["Soap😀 \ufffd end", "", "Beauty", "", ""],
        "B0003": ["Strict JSON", "Acme", "Beauty Nails", "3.99", "two parts"],
        "B0004": ["", "", "", "", ""],  # bought, not described: kept, or RecBole would drop its interactions
    }
    assert (summary.n_users, summary.n_items, summary.n_interactions) == (3, 4, 12)
    assert (summary.n_raw_interactions, summary.n_titled_items) == (13, 3)
    assert summary.average_length == 4 and summary.sparsity == 0
    assert "3 users, 4 items, 12 interactions (3-core of 13), 4.00 per user, sparsity 0.0000%" in str(summary)


def test_recbole_loads_what_was_prepared(amazon, tmp_path, monkeypatch):
    summary = run("amazon-beauty", amazon, tmp_path)
    loaded = load("amazon-beauty", tmp_path / "out", monkeypatch, core="[3,inf)")
    assert (loaded.user_num - 1, loaded.item_num - 1, loaded.inter_num) == (3, 4, 12)
    assert summary.n_users == 4
    assert words(loaded, "B0001", "title") == ['Gel"', "–", "Mega", '"Hold"']
    names = ["Beauty", "Hair_Care", "Styling_Products", "Health_&_Personal_Care"]
    assert words(loaded, "B0001", "categories") == names
    assert words(loaded, "B0001", "brand") == ["L'Oreal Paris"]
    assert words(loaded, "B0001", "description") == ['It\'s a "gel". Strong & light éclat.']
    assert words(loaded, "B0004", "title") == []
    assert sorted(set(loaded.inter_feat["timestamp"])) == [1390089600.0 + 86400 * t for t in range(4)]


@pytest.mark.parametrize("dataset", [name for name in DATASETS if name.startswith("amazon-")])
def test_recboles_own_amazon_folder_fits_the_yaml(dataset, tmp_path, monkeypatch):
    folder = tmp_path / dataset
    folder.mkdir()
    inter = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    inter += [f"u{u}\ti{i}\t5\t{100 + u}" for u in range(6) for i in range(5)] + ["u0\ti9\t5\t100"]
    item = ["item_id:token\ttitle:token\tsales_rank:float\tcategories:token_seq\tprice:float\tbrand:token"]
    item += [f"i{i}\tTitle of {i}\t12.0\t'Hair Care', 'Beauty'\t9.5\tAcme" for i in (*range(5), 9, 10)]
    (folder / f"{dataset}.inter").write_text("\n".join(inter) + "\n")
    (folder / f"{dataset}.item").write_text("\n".join(item) + "\n")
    loaded = load(dataset, tmp_path, monkeypatch)
    # The 5-core: i9 was bought once, and i10, which nobody bought, is no candidate either.
    assert (loaded.user_num - 1, loaded.item_num - 1, loaded.inter_num) == (6, 5, 30)
    assert words(loaded, "i3", "title") == ["Title of 3"]
    assert words(loaded, "i3", "categories") == ["'Hair", "Care',", "'Beauty'"]
    assert set(loaded.item_feat) == {"item_id", "title", "categories", "brand"}


@pytest.mark.parametrize(
    "line",
    [
        "__import__('os').system('touch {marker}')",
        "{{'asin': 'B0001', 'title': __import__('os').system('touch {marker}')}}",
        "{{'asin': 'B0001', 'title': open('{marker}', 'w').write('x') or 't'}}",
    ],
)
def test_metadata_is_never_executed(line, amazon, tmp_path):
    marker = tmp_path / "executed"
    amazon["meta"] = write(tmp_path / "bad.json", META + "\n" + line.format(marker=marker) + "\n")
    with pytest.raises(UserError, match=r"bad\.json, line 5: expected Amazon 2014 metadata"):
        run("amazon-beauty", amazon, tmp_path)
    assert not marker.exists()
    assert not (tmp_path / "out" / "amazon-beauty").exists()


@pytest.mark.parametrize(
    "line",
    [
        "{'asin': 'B0001', 'title': 'cut off",
        "['B0001']",
        "{'title': 'no asin'}",
        "{'asin': 'B0001', 'title': 5}",
        "{'asin': 'B0001', 'title': {'a': 1}}",
        "{'asin': 'B0001', 'categories': 'Beauty'}",
        "{'asin': 'B0001', 'categories': [[1]]}",
        "{'asin': ['B0001']}",
        "{'asin': " + "[" * 5000,
    ],
)
def test_malformed_metadata_names_file_and_line(line, amazon, tmp_path):
    amazon["meta"] = write(tmp_path / "bad.json", line + "\n")
    with pytest.raises(UserError, match=r"bad\.json, line 1: expected Amazon 2014 metadata.*got "):
        run("amazon-beauty", amazon, tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1, 2]",
        '{"asin": "B0001", "overall": 5, "unixReviewTime": 1}',
        review("U", "B0001", rating="good"),
        review("U", "B0001", time=None),
        review("U", "B0001", time=float("nan")),
        review("U", ""),
        review("U V", "B0001"),
        review('"U', "B0001"),
        review(7, "B0001"),
    ],
)
def test_malformed_review_names_file_and_line(line, amazon, tmp_path):
    amazon["reviews"] = write(tmp_path / "bad.json", review("U", "B0001") + "\n\n" + line + "\n")
    with pytest.raises(UserError, match=r"bad\.json, line 3: expected an Amazon 2014 review"):
        run("amazon-beauty", amazon, tmp_path)
    assert not (tmp_path / "out" / "amazon-beauty").exists()


def test_metadata_of_another_category_is_refused(amazon, tmp_path):
    amazon["meta"] = write(tmp_path / "meta_Toys.json", "{'asin': 'T1', 'title': 'toy'}\n")
    with pytest.raises(UserError, match=r"describe none of the 5 items.*meta_Toys\.json"):
        run("amazon-beauty", amazon, tmp_path)


def test_first_entry_of_an_item_counts_and_others_are_not_parsed(amazon, tmp_path):
    more = "{'asin': 'B0003', 'title': 'again'}\n{'asin': 'UNSOLD', 'title': 'cut off"
    amazon["meta"] = write(tmp_path / "meta.json", META + "\n" + more)
    run("amazon-beauty", amazon, tmp_path)
    assert {row[0]: row[1] for row in table(tmp_path, "amazon-beauty", "item")[1]}["B0003"] == "Strict JSON"


def test_ranges_and_nonsense_prices_are_blank(amazon, tmp_path):
    prices = {"B0001": "$5 - $7", "B0002": -1.0, "B0003": "$1,234.5"}
    lines = [repr({"asin": item, "title": "t", "price": price}) for item, price in prices.items()]
    amazon["meta"] = write(tmp_path / "meta.json", "\n".join(lines))
    run("amazon-beauty", amazon, tmp_path)
    assert {row[0]: row[4] for row in table(tmp_path, "amazon-beauty", "item")[1]} == {
        "B0001": "", "B0002": "", "B0003": "1234.5", "B0004": "", "B0009": "",
    }  # fmt: skip


# ---- MovieLens

RATINGS = "1::1193::5::978300760\n1::1::3::978302109\n2::1193::4::978298413\n"
MOVIES = (
    "1::Toy Story (1995)::Animation|Children's|Comedy\n"
    "1193::Café & Co. (1975)::Film-Noir\n"
    "7::Unseen (2000)::Drama\n"
)
USERS = "1::F::1::10::48067\n2::M::56::16::70072-1234\n3::M::25::15::55117\n"


def test_movielens_reads_latin1_from_files(tmp_path):
    sources = {
        "ratings": write(tmp_path / "ratings.dat", RATINGS),
        "movies": write(tmp_path / "movies.dat", MOVIES, "latin-1"),
        "users": write(tmp_path / "users.dat", USERS),
    }
    summary = run("ml-1m", sources, tmp_path)
    assert (summary.n_users, summary.n_items, summary.n_interactions) == (2, 2, 3)
    assert table(tmp_path, "ml-1m", "inter") == (
        ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
        [["1", "1193", "5", "978300760"], ["1", "1", "3", "978302109"], ["2", "1193", "4", "978298413"]],
    )
    assert table(tmp_path, "ml-1m", "item") == (
        ["item_id:token", "title:token_seq", "categories:token_seq"],
        [
            ["1193", "Café & Co. (1975)", "Film-Noir"],
            ["1", "Toy Story (1995)", "Animation Children's Comedy"],
        ],
    )
    assert table(tmp_path, "ml-1m", "user") == (
        ["user_id:token", "gender:token", "age:token", "occupation:token", "zip_code:token"],
        [["1", "F", "1", "10", "48067"], ["2", "M", "56", "16", "70072-1234"]],
    )


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in members.items():
            file.writestr(name, text)
    return path


def test_movielens_from_its_archive_loads_in_recbole(tmp_path, monkeypatch):
    members = {"ml-1m/": "", "ml-1m/ratings.dat": RATINGS, "ml-1m/movies.dat": MOVIES.encode("latin-1")}
    path = archive(tmp_path / "ml-1m.zip", members | {"__MACOSX/ml-1m/._movies.dat": b"\x00"})
    assert run("ml-1m", {"zip": path}, tmp_path).n_interactions == 3
    assert not (tmp_path / "out/ml-1m/ml-1m.user").exists()  # users.dat is optional
    loaded = load("ml-1m", tmp_path / "out", monkeypatch, core="[0,inf)")
    assert (loaded.user_num - 1, loaded.item_num - 1, loaded.inter_num) == (2, 2, 3)
    assert words(loaded, "1193", "title") == ["Café", "&", "Co.", "(1975)"]


def test_archive_without_a_member_names_it(tmp_path):
    path = archive(tmp_path / "ml-1m.zip", {"ratings.dat": RATINGS})
    with pytest.raises(UserError, match=r"ml-1m\.zip holds no movies\.dat; name the file with --movies"):
        run("ml-1m", {"zip": path}, tmp_path)
    movies = write(tmp_path / "movies.dat", MOVIES)
    assert run("ml-1m", {"zip": path, "movies": movies}, tmp_path).n_items == 2


@pytest.mark.parametrize("line", ["1::2::3", "1::2::x::4", "1::2::3::", "::2::3::4", "1\t2\t3\t4"])
def test_malformed_rating(line, tmp_path):
    sources = {"ratings": write(tmp_path / "r.dat", line), "movies": write(tmp_path / "m.dat", MOVIES)}
    with pytest.raises(UserError, match=r"r\.dat, line 1: expected UserID::MovieID::Rating::Timestamp"):
        run("ml-1m", sources, tmp_path)


# ---- Last.fm

TAGGINGS = (
    "userID\tartistID\ttagID\tday\tmonth\tyear\n"
    "2\t52\t13\t1\t4\t2009\n2\t52\t15\t1\t3\t2009\n2\t63\t15\t1\t1\t1957\n"
    "3\t52\t15\t2\t5\t2010\n3\t99\t16\t2\t5\t2010\n"
)
ARTISTS = (
    "id\tname\turl\tpictureURL\n"
    "52\tThe Crüxshadows\thttp://www.last.fm/music/The+Cr%C3%BCxshadows\t\n"
    "63\t\"Weird\" Al\thttp://www.last.fm/music/Al\thttp://userserve-ak.last.fm/serve/252/1.jpg\n"
)
TAGS = b"tagID\ttagValue\n13\tchillout\n15\tcaf\xe9 del mar\n16\tnew  wave\n"


def lastfm_sources(tmp_path):
    return {
        "taggings": write(tmp_path / "user_taggedartists.dat", TAGGINGS),
        "artists": write(tmp_path / "artists.dat", ARTISTS),
        "tags": write(tmp_path / "tags.dat", TAGS),
    }


def test_lastfm_interaction_is_the_first_tagging(tmp_path, monkeypatch):
    summary = run("lastfm", lastfm_sources(tmp_path), tmp_path)
    assert table(tmp_path, "lastfm", "inter") == (
        ["user_id:token", "item_id:token", "timestamp:float"],
        [
            ["2", "52", "1235865600"],
            ["2", "63", "-410227200"],
            ["3", "52", "1272758400"],
            ["3", "99", "1272758400"],
        ],
    )
    assert table(tmp_path, "lastfm", "item") == (
        ["item_id:token", "title:token_seq", "tags:token_seq"],
        [
            ["52", "The Crüxshadows", "café_del_mar chillout"],  # two uses before one
            ["63", 'Weird" Al', "café_del_mar"],
            ["99", "", "new_wave"],
        ],
    )
    assert summary.n_titled_items == 2
    loaded = load("lastfm", tmp_path / "out", monkeypatch, core="[0,inf)")
    assert (loaded.user_num - 1, loaded.item_num - 1, loaded.inter_num) == (2, 3, 4)
    assert words(loaded, "52", "tags") == ["café_del_mar", "chillout"]


def test_lastfm_keeps_ten_tags_and_reads_millisecond_times(tmp_path):
    lines = [f"{user}\t52\t{tag}\t{1238536800000 + tag}" for tag in range(1, 13) for user in range(14 - tag)]
    taggings = write(tmp_path / "t.dat", "userID\tartistID\ttagID\ttimestamp\n" + "\n".join(lines))
    sources = lastfm_sources(tmp_path) | {"taggings": taggings}
    tags = "tagID\ttagValue\n" + "".join(f"{tag}\ttag {tag}\n" for tag in range(1, 13))
    sources["tags"] = write(tmp_path / "tags.dat", tags)
    run("lastfm", sources, tmp_path)
    assert table(tmp_path, "lastfm", "item")[1][0][2].split() == [f"tag_{t}" for t in range(1, 11)]
    assert table(tmp_path, "lastfm", "inter")[1][0] == ["0", "52", "1238536800.001"]


def test_lastfm_archive_prefers_the_days(tmp_path):
    members = {"user_taggedartists.dat": TAGGINGS, "user_taggedartists-timestamps.dat": "?", "tags.dat": TAGS}
    path = archive(tmp_path / "hetrec.zip", members | {"artists.dat": ARTISTS, "readme.txt": "?"})
    assert run("lastfm", {"zip": path}, tmp_path).n_interactions == 4


@pytest.mark.parametrize(
    "line",
    ["2\t52\t13\t31\t2\t2009", "2\t52\t13\t1\t4", "2\t52\t13\t1\tApril\t2009", "a b\t52\t13\t1\t4\t2009"],
)
def test_malformed_tagging(line, tmp_path):
    sources = lastfm_sources(tmp_path) | {"taggings": write(tmp_path / "t.dat", TAGGINGS + line)}
    with pytest.raises(UserError, match=r"t\.dat, line 7: expected userID, artistID, tagID, day, month and"):
        run("lastfm", sources, tmp_path)


# ---- MIND

BEHAVIORS = (
    "1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-1 N35729-0\n"
    "2\tU91836\t11/12/2019 6:11:30 PM\t\tN20678-0 N39317-1 N55689-1\n"
)
NEWS = (
    "N55689\tsports\tfootball nfl\t\"Brands\" to shop\tShop the\u00a0notebooks\thttps://msn.com/a.html\t"
    "[{\"Label\": \"P\"}]\t[]\n"
    "N39317\tnews\tnewsus\tA title\t\thttps://assets.msn.com/b.html\t[]\t[]\n"
    "N35729\tnews\tnewsus\tNot clicked\t\thttps://assets.msn.com/c.html\t[]\t[]\n"
)


def test_mind_interactions_are_timed_clicks(tmp_path, monkeypatch):
    behaviors, news = write(tmp_path / "behaviors.tsv", BEHAVIORS), write(tmp_path / "news.tsv", NEWS)
    run("mind-small", {"behaviors": behaviors, "news": news}, tmp_path)
    assert table(tmp_path, "mind-small", "inter") == (
        ["user_id:token", "item_id:token", "timestamp:float"],
        [
            ["U13740", "N55689", "1573463158"],
            ["U91836", "N39317", "1573582290"],
            ["U91836", "N55689", "1573582290"],
        ],
    )
    assert table(tmp_path, "mind-small", "item") == (
        ["item_id:token", "title:token_seq", "categories:token_seq", "abstract:token"],
        [
            ["N55689", 'Brands" to shop', "sports football_nfl", "Shop the notebooks"],
            ["N39317", "A title", "news newsus", ""],
        ],
    )
    loaded = load("mind-small", tmp_path / "out", monkeypatch, core="[0,inf)")
    assert (loaded.user_num - 1, loaded.item_num - 1, loaded.inter_num) == (2, 2, 3)
    assert words(loaded, "N55689", "abstract") == ["Shop the notebooks"]


def test_mind_train_and_dev_are_read_one_after_the_other(tmp_path):
    train = {"MINDsmall_train/behaviors.tsv": BEHAVIORS, "MINDsmall_train/news.tsv": NEWS}
    dev = {
        "behaviors.tsv": "1\tU13740\t11/15/2019 12:00:00 AM\tN1\tN9-1\n",
        "news.tsv": "N9\tnews\tnewsus\tLater\t\tu\t[]\t[]\nN39317\tnews\tnewsus\tChanged\t\tu\t[]\t[]\n",
    }
    zips = [archive(tmp_path / "MINDsmall_train.zip", train), archive(tmp_path / "MINDsmall_dev.zip", dev)]
    summary = run("mind-small", {"zip": zips}, tmp_path)
    assert (summary.n_users, summary.n_items, summary.n_interactions) == (2, 3, 4)
    titles = {row[0]: row[1] for row in table(tmp_path, "mind-small", "item")[1]}
    assert titles == {"N55689": 'Brands" to shop', "N39317": "A title", "N9": "Later"}


@pytest.mark.parametrize("shown", ["N1", "N1-2", "-1"])
@pytest.mark.parametrize("when", ["11/11/2019 9:05:58 AM", "2019-11-11"])
def test_malformed_behaviour(shown, when, tmp_path):
    line = f"1\tU1\t{when}\tN2\t{shown}\n"
    behaviors, news = write(tmp_path / "b.tsv", BEHAVIORS + line), write(tmp_path / "news.tsv", NEWS)
    with pytest.raises(UserError, match=r"b\.tsv, line 3: expected impression id, user id, time"):
        run("mind-small", {"behaviors": behaviors, "news": news}, tmp_path)


# ---- k-core


def k_core_by_hand(pairs, k):
    """The pairs left after dropping one offender at a time, in whatever order they are met."""
    left = list(pairs)
    while True:
        users, items = Counter(u for u, _ in left), Counter(i for _, i in left)
        bad = next((pair for pair in left if users[pair[0]] < k or items[pair[1]] < k), None)
        if bad is None:
            return left
        left.remove(bad)


def test_k_core_equals_dropping_one_at_a_time():
    rng = np.random.default_rng(0)
    partial = 0
    for _ in range(100):
        n, k = int(rng.integers(0, 90)), int(rng.integers(0, 6))
        pairs = [(int(u), int(i)) for u, i in (12 * rng.random((n, 2)) ** 2).astype(int)]  # few are met often
        user, item = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
        left = [pair for pair, kept in zip(pairs, k_core(user, item, k)) if kept]
        assert Counter(left) == Counter(k_core_by_hand(pairs, k))
        partial += 0 < len(left) < n
    assert partial > 30  # enough cases in which some are left and some are not


def test_k_core_of_a_long_chain_needs_many_rounds():
    n = 200  # user j has items j and j+1: each round takes one link off either end
    user, item = np.repeat(np.arange(n), 2), np.stack([np.arange(n), np.arange(n) + 1], axis=1).ravel()
    assert k_core(user, item, 1).all()
    assert not k_core(user, item, 2).any()
    closed = np.append(user, n), np.append(item, 0)
    closed = np.append(closed[0], n), np.append(closed[1], n)  # one more user closes the ring
    assert k_core(*closed, 2).all()


def test_empty_core_is_an_error(amazon, tmp_path):
    with pytest.raises(UserError, match=r"none of the 13 interactions is left in the 5-core; lower kcore"):
        run("amazon-beauty", amazon, tmp_path, kcore=None)
    assert not (tmp_path / "out" / "amazon-beauty").exists()
    with pytest.raises(UserError, match="kcore is -1"):
        run("amazon-beauty", amazon, tmp_path, kcore=-1)


# ---- sources


def test_unknown_dataset_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="unknown dataset 'amazon-beuty'; did you mean 'amazon-beauty'.*; prepare knows"):
        run("amazon-beuty", {}, tmp_path)


def test_missing_and_unknown_sources(amazon, tmp_path):
    with pytest.raises(UserError, match=r"amazon-toys needs --meta \(.* meta_<Category>\.json\.gz\)$"):
        run("amazon-toys", {"reviews": amazon["reviews"]}, tmp_path)
    with pytest.raises(UserError, match=r"ml-1m needs --ratings .*; --movies .*, or --zip"):
        run("ml-1m", {}, tmp_path)
    with pytest.raises(UserError, match="amazon-beauty has no source 'zip'"):
        run("amazon-beauty", amazon | {"zip": "x.zip"}, tmp_path)
    with pytest.raises(UserError, match="has no source 'review'; did you mean 'reviews'.; it takes reviews, meta"):
        run("amazon-beauty", {"review": "x"}, tmp_path)
    with pytest.raises(UserError, match=r"absent\.json\.gz does not exist"):
        run("amazon-beauty", amazon | {"meta": tmp_path / "absent.json.gz"}, tmp_path)
    with pytest.raises(UserError, match="is a folder"):
        run("amazon-beauty", amazon | {"meta": tmp_path}, tmp_path)


def test_damaged_files_are_named(amazon, tmp_path):
    whole = amazon["reviews"].read_bytes()
    cut = write(tmp_path / "cut.json", whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.json cannot be read after line \d+: .*damaged or incomplete"):
        run("amazon-beauty", amazon | {"reviews": cut}, tmp_path)
    with pytest.raises(UserError, match=r"cut\.json cannot be opened as a zip archive"):
        run("ml-1m", {"zip": cut}, tmp_path)
    zipped = archive(tmp_path / "ml-1m.zip", {"ratings.dat": RATINGS, "movies.dat": MOVIES})
    with pytest.raises(UserError, match=r"ml-1m\.zip is a zip archive; give it as the source 'zip'"):
        run("ml-1m", {"ratings": zipped, "movies": zipped}, tmp_path)
    binary = write(tmp_path / "b.json", b'{"reviewerID": "\xff\xfe"}\n')
    with pytest.raises(UserError, match=r"b\.json, line 1: .* is not UTF-8 text"):
        run("amazon-beauty", amazon | {"reviews": binary}, tmp_path)


def test_several_files_and_a_byte_order_mark(amazon, tmp_path):
    more = write(tmp_path / "more.json", "\ufeff" + review("Z", "B0001") + "\r\n")
    summary = run("amazon-beauty", amazon | {"reviews": [amazon["reviews"], str(more)]}, tmp_path)
    assert summary.n_interactions == 14
    assert table(tmp_path, "amazon-beauty", "inter")[1][-1] == ["Z", "B0001", "5", "1390089600"]


# ---- downloads


@pytest.fixture
def server(amazon):
    """A local web server: /meta.json.gz is whole, /short breaks off, everything else is absent."""
    body = amazon["meta"].read_bytes()
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            if self.path not in ("/meta.json.gz", "/short"):
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.path != "/short" else body[:20])

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", requests
        http.shutdown()
        thread.join()


def test_urls_are_downloaded_once(server, amazon, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    url, requests = server
    sources = {"reviews": amazon["reviews"].as_uri(), "meta": f"{url}/meta.json.gz"}
    first = run("amazon-beauty", sources, tmp_path)
    assert first == run("amazon-beauty", sources, tmp_path, force=True)
    assert requests == ["/meta.json.gz"]
    names = sorted(path.name.split("-", 1)[1] for path in (tmp_path / "out" / "downloads").iterdir())
    assert names == ["meta.json.gz", "reviews_Beauty_5.json.gz"]


@pytest.mark.parametrize("path, reason", [("/absent", "HTTP Error 404"), ("/short", "ended after 20 of")])
def test_failed_downloads_name_the_url_and_leave_nothing(path, reason, server, amazon, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(UserError, match=f"cannot download {server[0]}{path}: .*{reason}"):
        run("amazon-beauty", amazon | {"meta": server[0] + path}, tmp_path)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_connection_that_breaks_is_not_called_a_full_disk(amazon, tmp_path, monkeypatch):
    class Broken(io.BytesIO):
        headers = {}

        def read(self, size=-1):
            raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(raw_files.urllib.request, "urlopen", lambda *_, **__: Broken())
    with pytest.raises(UserError, match="cannot download https://example.org/m.gz: reset by peer"):
        run("amazon-beauty", amazon | {"meta": "https://example.org/m.gz"}, tmp_path)


def test_other_schemes_are_refused(amazon, tmp_path):
    with pytest.raises(UserError, match="'ftp' is no way to get a file; give an http, https or file URL"):
        run("amazon-beauty", amazon | {"meta": "ftp://example.org/m.gz"}, tmp_path)


# ---- all files or none


def test_existing_files_are_kept_unless_forced(amazon, tmp_path):
    run("amazon-beauty", amazon, tmp_path)
    folder = tmp_path / "out" / "amazon-beauty"
    (folder / "vectors.npy").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"amazon-beauty\.inter exists; --force"):
        run("amazon-beauty", amazon, tmp_path, kcore=3)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert run("amazon-beauty", amazon, tmp_path, kcore=3, force=True).n_users == 3
    assert len(table(tmp_path, "amazon-beauty", "inter")[1]) == 12
    assert len(table(tmp_path, "amazon-beauty", "item")[1]) == 4
    assert {path.name for path in folder.iterdir()} == set(before)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["amazon-beauty"]


def test_forced_call_without_users_removes_the_old_user_file(tmp_path):
    sources = {"ratings": write(tmp_path / "r.dat", RATINGS), "movies": write(tmp_path / "m.dat", MOVIES)}
    run("ml-1m", sources | {"users": write(tmp_path / "u.dat", USERS)}, tmp_path)
    run("ml-1m", sources, tmp_path, force=True)
    assert {path.name for path in (tmp_path / "out/ml-1m").iterdir()} == {"ml-1m.inter", "ml-1m.item"}


@pytest.mark.parametrize("fail_at", range(4))
def test_a_failing_exchange_brings_the_old_files_back(fail_at, amazon, tmp_path, monkeypatch):
    run("amazon-beauty", amazon, tmp_path)
    folder = tmp_path / "out" / "amazon-beauty"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    replace, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == fail_at + 1:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(atomic_files.os, "replace", failing)
    with pytest.raises(UserError, match="cannot write .*No space left on device"):
        run("amazon-beauty", amazon, tmp_path, kcore=3, force=True)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["amazon-beauty"]


def test_a_failing_write_leaves_nothing(amazon, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_module, "write_rows", full)
    with pytest.raises(UserError, match="No space left on device"):
        run("amazon-beauty", amazon, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_call_left_goes_with_the_next_one(amazon, tmp_path, monkeypatch):
    child = os.fork()
    if not child:
        monkeypatch.setattr(prepare_module, "publish", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        try:
            run("amazon-beauty", amazon, tmp_path)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.name.startswith(".amazon-beauty.") for path in (tmp_path / "out").iterdir()] == [True]
    run("amazon-beauty", amazon, tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["amazon-beauty"]


# ---- text


@pytest.mark.parametrize(
    "raw, clean",
    [
        ("a &amp; b &lt;c&gt; &#39;d&#39;", "a & b <c> 'd'"),
        (" \t a\r\n\x00b\u2028c\u00a0d\x85e ", "a b c d e"),
        ('"quoted" word', 'quoted" word'),
        ('&quot; "" x', "x"),
        ("\ud83d\ude00 \ud83d", "😀 \ufffd"),
        ("", ""),
    ],
)
def test_clean_text(raw, clean):
    assert clean_text(raw) == clean
    assert clean_text(clean) == clean or "&" in raw


def test_name_sequence_joins_and_repeats_nothing():
    names = ["Toys & Games", "Toys &amp; Games", " ", '"Dolls"', "A\tB"]
    assert name_sequence(names) == 'Toys_&_Games Dolls" A_B'


def test_lines_show_how_far_they_are(tmp_path, capsys):
    path = write(tmp_path / "long.txt.gz", "".join(f"{i}\n" for i in range(5000)))
    assert sum(1 for _ in RawFile(path).lines(show_progress=True)) == 5000
    assert "long.txt.gz: 100%" in capsys.readouterr().err
    list(RawFile(path).lines(show_progress=False))
    assert capsys.readouterr().err == ""


# ---- command line and properties


def test_command_line(amazon, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_prepare_arguments(parser)
    out = str(tmp_path / "out")
    files = ["--reviews", str(amazon["reviews"]), "--meta", str(amazon["meta"])]
    words = ["amazon-beauty", *files, "--kcore=3", "--quiet", "--output", out]
    summary = run_prepare(parser.parse_args(words))
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        str(summary), f"next: recbole-r3vae run --model=R3GR --dataset=amazon-beauty --data_path={out}",
    ]  # fmt: skip
    assert printed.err == ""
    with pytest.raises(UserError, match="exists"):
        run_prepare(parser.parse_args(words))
    assert run_prepare(parser.parse_args([*words, "--force"])) == summary


def test_every_dataset_has_properties_that_fit_what_is_written():
    for name, spec in DATASETS.items():
        config = yaml.safe_load((PROPERTIES / f"{name}.yaml").read_text())
        written = {field.split(":")[0] for field in spec.raw.item_fields} | {"item_id"}
        assert "item_id" in config["load_col"]["item"]
        assert set(config["item_text_fields"]) <= set(config["load_col"]["item"])
        assert set(config["item_text_fields"]) & written
        assert config["load_col"]["inter"] == ["user_id", "item_id", "timestamp"]
        for kind in ("user", "item"):
            assert config[f"{kind}_inter_num_interval"] == f"[{spec.kcore},inf)"


def test_ml_100k_of_recboles_wheel_fits_the_yaml(monkeypatch):
    loaded = load("ml-100k", "dataset", monkeypatch)
    assert set(loaded.item_feat) == {"item_id", "movie_title", "class", "release_year"}
    assert set(loaded.inter_feat) == {"user_id", "item_id", "timestamp"}
    assert words(loaded, "1", "movie_title") == ["Toy", "Story"]
