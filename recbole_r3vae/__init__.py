"""R3-VAE semantic IDs and generative recommendation for RecBole."""

from importlib import import_module as _import_module

from recbole_r3vae import compat as _compat

__version__ = "0.2.0"

_compat.apply()

_ENTRANCES = {"Recommender": "serve", "load_data_and_model": "quick_start", "run_recbole_r3vae": "quick_start", "tokenize_items": "serve"}
"""What may be imported from the package itself, and the room it is in; imported when it is asked for, so that the package is light."""


def __getattr__(name: str):
    if name not in _ENTRANCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f"{__name__}.{_ENTRANCES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ENTRANCES])
