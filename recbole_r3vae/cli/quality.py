"""``recbole-r3vae quality``."""

from __future__ import annotations

import json

SUMMARY = HELP = "score the semantic IDs of any .sid file"


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--sid", required=True, help="the .sid file, or *.index.json, from any tool")
    parser.add_argument("--embeddings", required=True, help="item vectors [n, d]: .npy, .safetensors, .npz or .pt")
    parser.add_argument("--ids", help="their item ids, one a line; default: beside the vectors, with the ending .ids")
    parser.add_argument("--json", help="also write the report to this file")


def run(options, rest: list[str]) -> None:
    """Do it."""
    from recbole_r3vae.data.content import content_from_vectors
    from recbole_r3vae.io import write_json
    from recbole_r3vae.sid.quality.report import format_quality, quality_report
    from recbole_r3vae.sid.table import SemanticIDs

    content = content_from_vectors(options.embeddings, options.ids)
    sids = SemanticIDs.load(options.sid, content.item_ids)
    there = SemanticIDs.load(options.sid).n_items - 1
    left_out = there - (sids.n_items - 1)
    report = quality_report(sids.codes[1:], sids.codebook_sizes, {"raw": content.embeddings[1:]}, ordered=sids.ordered)
    report["items"] = {"scored": there - left_out, "left_out": left_out}
    if left_out:
        scored = f"{there - left_out:,} of {there:,} items of {options.sid} are scored"
        print(f"{scored}, those that {options.embeddings} has; figures do not compare with those of all")
    print(format_quality(report))
    if options.json:
        write_json(options.json, report)
        print(json.dumps({"written": options.json}))
