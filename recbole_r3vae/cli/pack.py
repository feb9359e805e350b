"""``recbole-r3vae pack``."""

from __future__ import annotations

SUMMARY = "make a trained run small enough to pass on"
HELP = """make a trained run small enough to pass on: half precision, nothing that training alone needs, no paths of this machine

  recbole-r3vae pack --checkpoint saved/amazon-beauty/R3GR-dense-OPQ-... --output beauty
  recbole-r3vae recommend --checkpoint beauty --history B0009P4PZC,B004756YJA

What is written is a checkpoint like any other; a model of this package recommends from it without its dataset.
"""


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--checkpoint", required=True, help="a run's folder, or the best.pth in it")
    parser.add_argument("--output", required=True, help="the folder to write")
    parser.add_argument("--precision", default="float16", choices=("float16", "bfloat16", "float32"), help="of weights and item vectors")


def run(options, rest: list[str]) -> None:
    """Do it."""
    from recbole_r3vae.quick_start.run_folder import find_checkpoint
    from recbole_r3vae.serve.pack import pack_run

    before = find_checkpoint(options.checkpoint).stat().st_size
    path = pack_run(options.checkpoint, options.output, options.precision)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB of {before / 1e6:.1f}")
