"""``python -m recbole_r3vae.cli`` is ``recbole-r3vae``."""

from __future__ import annotations

import sys

from recbole_r3vae.cli import main

if __name__ == "__main__":
    sys.exit(main())
