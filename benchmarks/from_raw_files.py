"""The first figures of the README from the raw files of Amazon's reviews: prepare, embed, benchmark.

    python benchmarks/from_raw_files.py                                        # downloads reviews, metadata and an encoder
    python benchmarks/from_raw_files.py --reviews reviews_Beauty_5.json.gz --meta meta_Beauty.json.gz
    python benchmarks/from_raw_files.py --rows "codes and text" WindowSASRec --seeds 2020

Three commands, which are printed before they run and may be typed instead; what is there already is taken up. Needs the extras ``[text]``
and ``[faiss]``. The minutes of each row and seed are in its record, `results/dense`; choose rows and seeds before you begin.

The files are those of McAuley et al. (SIGIR 2015) and He and McAuley (WWW 2016), where their page https://jmcauley.ucsd.edu/data/amazon/ has
them. Their order of reviews of one day, and descriptions of items, can differ from those of the copies that the records here were made from:
the figures need not be equal to the last digit.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import yaml

from recbole_r3vae.cli import main as recbole_r3vae
from recbole_r3vae.config.sources import load_yaml, properties
from recbole_r3vae.io import atomic_write

FILES = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
CATEGORIES = {"amazon-beauty": "Beauty", "amazon-toys": "Toys_and_Games"}
ENCODER = "sentence-transformers/all-mpnet-base-v2"
TEMPLATE = "{title}. Categories: {categories}"


def grid_of_rows(path: Path, rows: list[str], seeds: list[int] | None, output: Path) -> Path:
    """A grid with some rows of another, and some of its seeds.

    Raises:
        SystemExit: it has no row of that name.
    """
    grid = load_yaml(path)
    unknown = [row for row in rows if row not in grid["models"]]
    if unknown:
        raise SystemExit(f"{path} has no row {unknown[0]!r}; choose among {', '.join(map(repr, grid['models']))}")
    grid["models"] = {row: grid["models"][row] for row in rows or grid["models"]}
    if seeds:
        grid["seeds"] = seeds
        for row in filter(None, grid["models"].values()):
            row.pop("seeds", None)
            tokenizers = row.get("tokenizers")
            for own in filter(None, tokenizers.values() if isinstance(tokenizers, dict) else ()):
                own.pop("seeds", None)
    with atomic_write(output) as file:
        yaml.safe_dump(grid, file, sort_keys=False)
    return output


def commands(options: argparse.Namespace) -> list[list[str]]:
    """The words of each command that is still to be run, in order."""
    name, category = options.dataset, CATEGORIES[options.dataset]
    vectors = Path("vectors") / f"{name}-mpnet.npy"
    grid = Path(options.grid or properties() / "benchmark" / f"{name}-dense.yaml")
    if options.rows or options.seeds:
        grid = grid_of_rows(grid, options.rows, options.seeds, Path(options.output) / f"{name}-rows.yaml")
    found = []
    if not (Path("dataset") / name / f"{name}.inter").is_file():
        reviews, meta = options.reviews or f"{FILES}/reviews_{category}_5.json.gz", options.meta or f"{FILES}/meta_{category}.json.gz"
        found.append(["prepare", name, "--reviews", reviews, "--meta", meta])
    if not vectors.is_file():
        words = [f"--dataset={name}", f"--output={vectors}", f"--content_encoder={options.encoder}", f"--item_text_template={TEMPLATE}"]
        found.append(["embed", *words, "--data_path=dataset"])
    found.append(["benchmark", f"--config={grid}", f"--output={options.output}", "--data_path=dataset"])
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing; the exit status of the first command that fails, or 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=CATEGORIES, default="amazon-beauty")
    parser.add_argument("--reviews", help="file or URL; default: where the data's page has it")
    parser.add_argument("--meta", help="likewise")
    parser.add_argument("--encoder", default=ENCODER, help="default: %(default)s")
    parser.add_argument("--grid", help="default: properties/benchmark/<dataset>-dense.yaml")
    parser.add_argument("--rows", nargs="+", default=[], help="names of rows of the grid; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of the grid")
    parser.add_argument("--output", default="results/from_raw_files", help="default: %(default)s")
    options = parser.parse_args(arguments)
    for words in commands(options):
        print(f"$ {shlex.join(['recbole-r3vae', *words])}", flush=True)
        status = recbole_r3vae(words)
        if status:
            return status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
