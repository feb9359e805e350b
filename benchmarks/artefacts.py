"""What there is to take away without training: semantic IDs of Beauty and Toys by six tokenizers, and a trained generator.

    python benchmarks/artefacts.py --data_path=dataset                              # all tables that are not there yet, then the README
    python benchmarks/artefacts.py --data_path=dataset --only amazon-beauty/OPQ-32  # one of them
    python benchmarks/artefacts.py --pack saved/amazon-beauty/R3GR-dense-OPQ-… --record results/dense/runs/amazon-beauty/R3GR-….json

A table is ``artefacts/sid/<dataset>/<name>.sid.gz``, codes as the tokenizer gave them; its sidecar says by which command, commit and text
vectors it was made, and what it is worth. A run is packed as ``artefacts/<model>-<dataset>``, with its record in a grid's results, which knows
the command, or else its own. ``artefacts/README.md`` is made of the sidecars and of the packed runs' records, and of nothing else. Item vectors
are those of ``vectors/<dataset>-mpnet.npy`` (``benchmarks/from_raw_files.py`` makes them).
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recbole_r3vae.experiments.tables import markdown_table
from recbole_r3vae.io import atomic_write
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.run_folder import BEST, RESULT
from recbole_r3vae.record import RULES, Record
from recbole_r3vae.serve.pack import pack_run
from recbole_r3vae.sid.table import SemanticIDs

DATASETS = ("amazon-beauty", "amazon-toys")
LONG, SHORT = [256] * 32, [256] * 3
TOKENIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "R3VAE-3": ("R3VAE", {"codebook_sizes": SHORT}),
    "RQVAE-3": ("RQVAE", {"codebook_sizes": SHORT}),
    "RKMeans-3": ("RKMeans", {"codebook_sizes": SHORT}),
    "LETTER-3": ("LETTER", {"codebook_sizes": SHORT}),
    "R3VAE-32": ("R3VAE", {"codebook_sizes": LONG, "layout": "parallel"}),
    "OPQ-32": ("OPQ", {"codebook_sizes": LONG}),
}
"""Name of a table, by its tokenizer and its number of codes, to that tokenizer and what differs from its YAML."""


def settings_of(dataset: str, name: str) -> tuple[str, dict[str, Any]]:
    """A table's tokenizer and all that its run is given but places."""
    tokenizer, own = TOKENIZERS[name]
    return tokenizer, {"content_encoder": "file", "content_file": f"vectors/{dataset}-mpnet.npy", **own}


def command(dataset: str, name: str) -> str:
    """What trains a table's tokenizer."""
    tokenizer, settings = settings_of(dataset, name)
    words = [f"--{key}={json.dumps(value, separators=(',', ':')) if isinstance(value, list) else value}" for key, value in settings.items()]
    return shlex.join(["recbole-r3vae", "run", f"--model={tokenizer}", f"--dataset={dataset}", *words])


def make_table(dataset: str, name: str, output: Path, places: Mapping[str, Any]) -> Path:
    """Train a tokenizer, or take it up where it was, and write its table."""
    tokenizer, settings = settings_of(dataset, name)
    result = run_recbole_r3vae(tokenizer, dataset, config_dict={**settings, **places, "show_progress": False})
    made = json.loads((Path(result["run_dir"]) / "tokenizer.json").read_text(encoding="utf-8"))
    quality = {key: made["quality"][key] for key in ("unique_ratio", "collision_rate")}
    meta = {"command": command(dataset, name), "commit": made["commit"], "seconds": made["seconds"], "quality": quality}
    sids, path = SemanticIDs.load(result["sid_file"]), output / "sid" / dataset / f"{name}.sid.gz"
    SemanticIDs(sids.codes, sids.codebook_sizes, sids.item_ids, {**sids.meta, "made": meta}, sids.ordered).save(path)
    return path


def readme(folder: Path) -> str:
    """``README.md`` of what lies in a folder."""
    tables = [(path, json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))) for path in sorted(folder.glob("sid/*/*.sid.gz"))]
    runs = [(path, Record.read(path.with_name(RESULT))) for path in sorted(folder.glob(f"*/{BEST}"))]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    lines = ["# To take away", "", f"{size / 1e6:.1f} MB, made by `python benchmarks/artefacts.py`. Nothing here has to be trained.", ""]
    if runs:
        lines += ["## Generators", "", *_of_runs(runs)]
    if tables:
        lines += ["", "## Semantic IDs", "", *_of_tables(tables, folder)]
    return "\n".join(lines).rstrip() + "\n"


def _of_runs(runs: Iterable[tuple[Path, Record]]) -> list[str]:
    runs = list(runs)
    first = runs[0][0].parent
    lines = [
        "```bash", f"recbole-r3vae recommend --checkpoint artefacts/{first.name} --history B004756YJA,B004ZT0SSG --topk 5", "```", "",
        "A checkpoint knows its items by their ids and needs no dataset; `--users` takes users of the dataset by name. Weights are rounded to "
        "half precision (`recbole-r3vae pack`); the figures are those of the run before it was packed, NDCG@10 of the test.", "",
    ]  # fmt: skip
    head = ["folder", "model", "seed", "parameters", "MB", *(f"met {rule.replace('_', ' ')}" for rule in RULES), "commit"]
    rows = [
        [
            f"`{path.parent.name}`", record.name, str(record.seed), f"{record.n_parameters:,}", f"{path.stat().st_size / 1e6:.1f}",
            *(f"{record.test[rule]['ndcg@10']:.4f}" for rule in RULES), record.commit or "–",
        ]
        for path, record in runs
    ]  # fmt: skip
    commands = [f"* `{path.parent.name}`: `{record.command}`, row “{record.label}”" for path, record in runs if record.command]
    return [*lines, *markdown_table(head, rows), *([""] if commands else []), *commands]


def _of_tables(tables: Iterable[tuple[Path, dict[str, Any]]], folder: Path) -> list[str]:
    tables = list(tables)
    example = tables[0][0].relative_to(folder).as_posix()
    dataset = tables[0][0].parent.name
    lines = [
        "```bash", f"recbole-r3vae run --model=R3GR --dataset={dataset} --sid_file=artefacts/{example}",
        f"recbole-r3vae inspect --sid artefacts/{example} --dataset {dataset} --depth 1", "```", "",
        "Codes as the tokenizer gave them, so items may share one; a run resolves that as its `collision_policy` says. Text vectors: "
        "sentence-transformers/all-mpnet-base-v2. LETTER learns from interactions too: those of the leave-one-out training split.", "",
    ]  # fmt: skip
    head = ["table", "items", "codes", "of", "unique", "collisions", "KB", "seconds", "commit"]
    rows = [
        [
            f"`{path.relative_to(folder).as_posix()}`", f"{side['n_items'] - 1:,}", str(len(side["codebook_sizes"])),
            str(max(side["codebook_sizes"])), f"{made['quality']['unique_ratio']:.4f}", f"{made['quality']['collision_rate']:.4f}",
            f"{path.stat().st_size / 1e3:.0f}", f"{made['seconds']:.0f}", made["commit"] or "–",
        ]
        for path, side in tables
        for made in [side["meta"]["made"]]
    ]  # fmt: skip
    commands = [f"* `{path.relative_to(folder).as_posix()}`: `{side['meta']['made']['command']}`" for path, side in tables]
    return [*lines, *markdown_table(head, rows), "", *commands]


def main(arguments: list[str] | None = None) -> None:
    """Make what is asked for, then the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--checkpoint_dir", default="saved")
    parser.add_argument("--output", type=Path, default=Path("artefacts"))
    parser.add_argument("--only", nargs="*", help="<dataset>/<name> of the tables to make; default: those that are not there")
    parser.add_argument("--pack", metavar="RUN", help="a run to pack")
    parser.add_argument("--record", type=Path, help="of that run; default: its own")
    options = parser.parse_args(arguments)
    names = [f"{dataset}/{name}" for dataset in DATASETS for name in TOKENIZERS]
    missing = [name for name in names if not (options.output / "sid" / f"{name}.sid.gz").is_file()]
    wanted = missing if options.only is None and not options.pack else options.only or []
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        parser.error(f"there is no table {unknown[0]}; choose {', '.join(names)}")
    for name in wanted:
        dataset, _, table = name.partition("/")
        print(make_table(dataset, table, options.output, {"data_path": options.data_path, "checkpoint_dir": options.checkpoint_dir}), flush=True)
    if options.pack:
        record = Record.read(options.record or Path(options.pack) / RESULT)
        path = pack_run(options.pack, options.output / f"{record.model}-{record.dataset}")
        record.write(path.with_name(RESULT))
        print(path, flush=True)
    with atomic_write(options.output / "README.md") as file:
        file.write(readme(options.output))


if __name__ == "__main__":
    main()
