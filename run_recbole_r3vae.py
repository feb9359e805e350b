"""Train and evaluate a model: ``python run_recbole_r3vae.py --model=R3GR --dataset=ml-100k``; the same as ``recbole-r3vae run``."""

import sys

from recbole_r3vae.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
