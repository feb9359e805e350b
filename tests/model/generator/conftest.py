"""A small generator over the real slice, with random semantic IDs."""

from __future__ import annotations

import pytest
import torch
from recbole.utils import init_seed

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.model.contract import Sources
from recbole_r3vae.sid.table import SemanticIDs


@pytest.fixture
def build(tiny_settings):
    """A function from codebook sizes to a configuration, a model and its datasets."""

    def build_model(sizes=(6, 6, 6), share=True, model="R3GR", **more):
        config = Config(model, "tiny", config_dict={**tiny_settings, **more})
        train, valid, test = config.model_class.dataset_class(config).build()
        generator = torch.Generator().manual_seed(0)
        item_ids = [str(token) for token in train.field2id_token["item_id"]]
        n = len(item_ids) - 1
        if share:
            codes = torch.stack([torch.randint(size, (n,), generator=generator) for size in sizes], 1)
        else:
            total = int(torch.tensor(sizes).prod())
            flat = torch.randperm(total, generator=generator)[:n]
            columns = []
            for size in reversed(sizes):
                columns.append(flat % size)
                flat = flat // size
            codes = torch.stack(columns[::-1], 1)
        codes = torch.cat([torch.full((1, len(sizes)), -1), codes])
        sids = SemanticIDs(codes, tuple(sizes), item_ids)
        vectors = torch.nn.functional.normalize(torch.randn(n + 1, 12, generator=generator), dim=1)
        train.sources = Sources(sids, ItemContent(vectors.numpy(), item_ids, {"kind": "random"}, "random"))
        init_seed(7, True)
        return config, config.model_class(config, train).eval(), train, valid, test

    return build_model
