"""Settings: where they come from, which are known, which stage they belong to, and what a run is."""

from recbole_r3vae.config.checks import RULES
from recbole_r3vae.config.configurator import Config
from recbole_r3vae.config.identity import arithmetic, fingerprint, identity
from recbole_r3vae.config.stages import decisive, tokenizer_config, tokenizer_defaults

__all__ = ["RULES", "Config", "arithmetic", "decisive", "fingerprint", "identity", "tokenizer_config", "tokenizer_defaults"]
