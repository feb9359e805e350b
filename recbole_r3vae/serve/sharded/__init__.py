"""Work on catalogues and user bases in shards, by one process or a Ray cluster: Parquet or ``.npy`` in, Parquet with a manifest out."""

from recbole_r3vae.serve.sharded.engines import Engine
from recbole_r3vae.serve.sharded.folder import ShardFolder, read_manifest, read_parts
from recbole_r3vae.serve.sharded.run import embed_shards, gather, recommend_shards, tokenize_shards

__all__ = ["Engine", "ShardFolder", "embed_shards", "gather", "read_manifest", "read_parts", "recommend_shards", "tokenize_shards"]
