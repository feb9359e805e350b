"""Every tokenizer once on one catalogue: what their semantic IDs are worth before any generator is trained."""

from recbole_r3vae.experiments.tokenizers.run import run_tokenizer_benchmark

__all__ = ["run_tokenizer_benchmark"]
