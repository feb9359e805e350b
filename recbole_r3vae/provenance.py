"""What a result must carry to be checked: configuration, versions, machine, and what it cost."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import recbole_r3vae
from recbole_r3vae import __version__
from recbole_r3vae.config import Config


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result, those that are installed."""
    installed = {"recbole-r3vae": __version__}
    for name in ("recbole-r3vae", "recbole", "torch", "numpy", "pandas", "scikit-learn", "faiss-cpu"):
        with suppress(PackageNotFoundError):  # this package itself, run from a checkout that is not installed, keeps its own word
            installed[name] = version(name)
    return {"python": platform.python_version(), **installed}


def commit() -> str | None:
    """The commit of the checkout that this package runs from, ``-dirty`` where files differ from it; ``None`` where it is none."""
    folder = Path(recbole_r3vae.__file__).resolve().parents[1]
    if not (folder / ".git").exists():  # a repository further up is somebody else's
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=7"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"})
    except OSError:  # there is no git
        return None
    return done.stdout.strip() or None


def provenance(config: Config) -> dict[str, Any]:
    """Configuration, versions, commit and machine of a run, as plain data."""
    plain = (int, float, str, bool, list, dict, type(None))
    declared = {key: value for key, value in config.declared.items() if key != "data_path"}  # a place, not a setting
    return {
        "config": {key: value if isinstance(value, plain) else str(value) for key, value in declared.items()},
        "versions": versions(),
        "commit": commit(),
        "hardware": {"machine": platform.machine(), "threads": torch.get_num_threads(), "device": str(config["device"])},
    }


def provenance_line() -> str:
    """Versions and machine in one line, for tables."""
    return f"{platform.machine()}, {torch.get_num_threads()} thread(s); " + ", ".join(f"{k} {v}" for k, v in versions().items())


def peak_memory_mb(device: torch.device | str = "cpu") -> float | None:
    """The most memory that this process has held so far, in MiB (2^20 bytes).

    Args:
        device: ``cpu`` for the memory of the process itself, everything imported and loaded included; a CUDA device for what torch
            allocated on it.

    Returns:
        The figure; ``None`` where the system does not tell (Windows).
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage's maximum survives exec: a child begins with that of the process that started it. Linux's own mark does not.
        marks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if marks:
            return int(marks[0]) / 2**10
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, others KiB
