"""R3-VAE semantic IDs and generative recommendation for RecBole."""

from recbole_r3vae import compat as _compat

__version__ = "0.2.0"

_compat.apply()
