"""Write ``docs/keys.md``: every key of ``properties/``, its default and its meaning, from the YAML files themselves.

``python docs/build_keys.py`` writes the file; ``tests/test_docs.py`` fails when it is out of date.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from recbole_r3vae.config.registry import MODEL_ROOMS, own_models
from recbole_r3vae.config.sources import YamlLoader, load_yaml, properties

PAGE = Path(__file__).with_name("keys.md")

KEY = re.compile(r"(?P<key>\w+):(?: +(?P<value>[^#]*?))? *(?:#+ ?(?P<comment>.*))?")
TYPE = re.compile(r"\((?P<type>\w+)\) ?")
"""How a comment on a key begins."""

RECBOLE = {
    "learner": ("str", "Optimizer."),
    "learning_rate": ("float", "Its step size."),
    "weight_decay": ("float", "Its weight decay."),
    "clip_grad_norm": ("dict", "Arguments of PyTorch's `clip_grad_norm_`; `~` is no clipping."),
    "eval_args": ("dict", "Split, grouping, order and candidates."),
    "epochs": ("int", "At most."),
    "train_batch_size": ("int", "Rows a batch."),
    "eval_step": ("int", "Validate every so many epochs."),
    "stopping_step": ("int", "Stop after so many validations without a new best."),
    "train_neg_sample_args": ("dict", "Sampled negatives; `~` is none."),
}
"""Type and meaning of RecBole's own keys, which our files need not explain."""

HEAD = """\
# Key reference

<!-- Written by docs/build_keys.py from the files in properties/. Change those, then run it again. -->

Every key that this package adds to RecBole or sets differently, with its default. The text is that of the YAML files in
`properties/`. All other keys are [RecBole's](https://recbole.io/docs/user_guide/config_settings.html) and mean what they mean there.

**Who wins**, from weak to strong: RecBole's defaults, `overall.yaml`, the model's file, the dataset's, `quick_start/<Model>_<dataset>.yaml`,
`--config_files`, values from Python, the command line. Of `eval_args` and `train_neg_sample_args` what is not given stays as it was. A mistyped key on the command line is an error that names the nearest one.

**Two stages.** In a generator's run, the keys of the generator's own file belong to the generator; write `tokenizer_X` to set X for its tokenizer.
A key that only the tokenizer has needs no prefix: `--codebook_sizes=[128,128,128]`.
"""


@dataclass
class Row:
    """One key of a file."""

    key: str
    value: str
    comment: list[str] = field(default_factory=list)


@dataclass
class Section:
    """Keys under one heading comment, which is empty for those under none."""

    title: str
    rows: list[Row] = field(default_factory=list)


def read(path: Path) -> tuple[list[str], list[Section]]:
    """Take a settings file apart.

    Args:
        path: A YAML file whose keys are explained by comments on their lines, with more lines of them indented below.

    Returns:
        The lines of its first comment, and its keys.

    Raises:
        ValueError: a line is none of those, or the keys and values are not those that YAML reads.
    """
    intro, _, body = path.read_text(encoding="utf-8").partition("\n\n")
    if not all(line.startswith("#") for line in intro.splitlines()):  # keys follow at once
        lines = f"{intro}\n\n{body}".splitlines()
        n = next(number for number, line in enumerate(lines) if not line.startswith("#"))
        intro, body = "\n".join(lines[:n]), "\n".join(lines[n:])
    sections, heading = [Section("")], []
    for line in body.splitlines():
        if line.startswith("#"):
            heading.append(line.lstrip("# "))
        elif match := KEY.fullmatch(line):
            if heading:
                sections.append(Section(" ".join(heading)))
                heading = []
            sections[-1].rows.append(Row(match["key"], (match["value"] or "").strip(), [match["comment"] or ""]))
        elif line.startswith(" ") and sections[-1].rows:
            row, (value, _, comment) = sections[-1].rows[-1], line.partition("#")
            row.value += f"\n{value.rstrip()}" if value.strip() else ""
            row.comment.append(comment.strip())
        elif line.strip():
            raise ValueError(f"{path}: {line!r} is neither a key nor a comment")
    sections = [section for section in sections if section.rows]
    found = {row.key: yaml.load(f"{row.key}: {row.value}", Loader=YamlLoader)[row.key] for section in sections for row in section.rows}
    if found != load_yaml(path):
        raise ValueError(f"{path} reads differently here and as YAML: {found} and {load_yaml(path)}")
    return [line.lstrip("# ") for line in intro.splitlines()], sections


def explained(row: Row) -> tuple[str, str]:
    """Type and meaning of a key; RecBole's where the file says nothing."""
    comment = " ".join(part for part in row.comment if part)
    match = TYPE.match(comment)
    kind, meaning = (match["type"], comment[match.end() :]) if match else ("", comment)
    if row.key in RECBOLE:
        kind = kind or RECBOLE[row.key][0]
        meaning = meaning or f"{RECBOLE[row.key][1]} RecBole's."
    return kind, meaning


def cell(text: str) -> str:
    """Text as it may stand in a cell of a Markdown table."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*")


def table(section: Section) -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for row in section.rows:
        value = row.value
        if "\n" in value:
            value = yaml.safe_dump(yaml.load(value, Loader=YamlLoader), default_flow_style=True, sort_keys=False, width=1000).strip()
        kind, meaning = explained(row)
        lines.append(f"| `{row.key}` | `{value}` | *{kind}:* {cell(meaning)} |")
    return "\n".join(lines)


def chapter(title: str, path: Path, depth: int = 3) -> str:
    """All keys of one file."""
    intro, sections = read(path)
    parts = [f"{'#' * depth} {title}", f"`properties/{path.relative_to(properties())}`", cell(" ".join(intro))]
    for section in sections:
        parts += ([f"**{cell(section.title.rstrip('.'))}**"] if section.title else []) + [table(section)]
    return "\n\n".join(parts)


def datasets() -> str:
    """What the files of the datasets have in common, and what differs."""
    folder = properties() / "dataset"
    example = chapter("Keys of a dataset", folder / "amazon-beauty.yaml")
    lines = ["| dataset | `item_text_fields` | `MAX_ITEM_LIST_LENGTH` | what it is |", "|---|---|---|---|"]
    for path in sorted(folder.glob("*.yaml")):
        values, intro = load_yaml(path), read(path)[0]
        fields = ", ".join(values["item_text_fields"])
        length = values.get("MAX_ITEM_LIST_LENGTH", "RecBole's, 50")
        lines.append(f"| `{path.stem}` | {fields} | {length} | {cell(intro[0].rstrip('.'))} |")
    return "\n\n".join(["## Datasets", "\n".join(lines), example])


def page() -> str:
    """The whole of ``docs/keys.md``."""
    tokenizers, generators, baselines = MODEL_ROOMS
    parts = [HEAD.rstrip(), chapter("Every run", properties() / "overall.yaml", depth=2)]
    for title, room in (("Generators", generators), ("Tokenizers", tokenizers), ("Baselines", baselines)):
        parts.append(f"## {title}")
        parts += [chapter(name, properties() / "model" / f"{name}.yaml") for name in sorted(own_models(room), key=str.lower)]
    clicks = properties() / "ctr"
    parts.append(chapter("Models that are trained on windows", properties() / "windows.yaml", depth=2))
    parts.append(chapter("Models that predict clicks", clicks.with_suffix(".yaml"), depth=2))
    parts += [chapter(f"{path.stem}, for models that predict clicks", path) for path in sorted(clicks.glob("*.yaml"))]
    parts.append(datasets())
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
