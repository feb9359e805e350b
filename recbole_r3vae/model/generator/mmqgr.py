r"""MMQGR: R3GR with item vectors made of codes, which trains the tokenizer on. MMQ's second stage, behaviour-aware fine-tuning.

Reference:
    "MMQ: Multimodal Mixture-of-Quantization Tokenization for Semantic ID Generation and User Behavioral Adaptation." WSDM 2026, arXiv
    2508.15281.

The name says whose second stage it is, as LETTER-TIGER does; any tokenizer that is ``tunable`` will do. The recommender of the paper is another
(HeterRec, and PPNet for ranking): what is MMQ's is the soft path from the loss to the codes, and that its tokenizer goes on reconstructing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_r3vae.config import tokenizer_config
from recbole_r3vae.config.registry import get_tokenizer
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import SHARED, Needs, Sources
from recbole_r3vae.model.generator.r3gr import R3GR
from recbole_r3vae.model.item_vectors import CODES, ID, copied, modalities
from recbole_r3vae.model.parameters import Either, Number

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

NONE = Number(at_least=0, at_most=0)


class MMQGR(R3GR):
    r"""R3GR's dense head over codes that move. With :math:`p_i` the cosines of what expert i makes of an item and its K codewords,

    .. math::
        ind_i = \mathrm{onehot}(\arg\max p_i) + s_i - \mathrm{sg}(s_i), \quad s_i = \mathrm{softmax}(p_i / \tau), \qquad
        v = \sum_i ind_i \cdot T_i

        L_{ft} = L_{downstream} + \alpha' L_{recon} + \beta' L_{aux}

    v is the item's vector in histories and in the catalogue; :math:`L_{downstream}` is R3GR's softmax over the catalogue. Forward, every code is
    one code; backward, the loss moves experts and codewords by all K cosines. The reconstructions are those of the items of the batch. Learnt
    from are the windows of the training split, as by any generator.

    Where the paper is silent or another:

    * :math:`T_i` is a table of the recommender, ``[K, d]``, as R3GR without tuning has it; codewords take part by their cosines;
    * :math:`\tau` is ``tuning_temperature``; the author's figure shows none;
    * one optimizer and one schedule for recommender and tokenizer;
    * no codebook or commitment term: codewords have a gradient of their own here, and the printed loss has none;
    * items that share all codes stay tied, as far as the codes are concerned (``rank_by: dense`` needs no suffix).

    All items are encoded at every step, which suits catalogues up to some 100,000 items. Semantic IDs are those of the weights: they are made
    anew when training gives way to evaluation, and kept in every checkpoint beside the weights that made them.

    Args:
        config: Keys of ``properties/model/MMQGR.yaml``. :meth:`check` took it.
        dataset: Training dataset with ``sources``: semantic IDs, content of every modality and, where a run begins, the tokenizer.

    Attributes:
        tokenizer: The tokenizer, whose weights are among the model's.
        item_content: What it reads, ``[n_items, D]``.
        sources: As of every ranker; the semantic IDs are those of the weights as they are.
    """

    hyperparameters = {
        "rank_by": Either("dense"),
        "code_merge": Either("sum"),
        "n_negatives": Either(None),
        "sid_dropout": NONE,
        "id_dropout": NONE,
        "tuning_temperature": Number(above=0),
        "tuning_reconstruction_weight": Number(at_least=0),
        "tuning_auxiliary_weight": Number(at_least=0),
    }
    _moved = False  # whether weights have changed since the semantic IDs were made

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        sources, stage = self._sources, tokenizer_config(config)
        self.tuning_temperature = config["tuning_temperature"]
        self.kept = {term: config[f"tuning_{term}_weight"] for term in ("reconstruction", "auxiliary")}
        content = sources.content
        self.register_buffer("item_content", copied(content.embeddings), persistent=False)  # [n_items, D]
        self.tokenizer = stage.model_class(stage, _Shape(content))
        if sources.tokenizer is not None:
            self.tokenizer.load_state_dict(sources.tokenizer.state_dict())
        self.tokenizer.requires_grad_(True)  # codewords that were running means too: here they have a gradient

    @staticmethod
    def read_of(sources: Sources, item_inputs: list[str]) -> Sources:
        """The modalities that items are read by, of all that the tokenizer reads."""
        return replace(sources, content=sources.content.take(modalities(item_inputs)))

    # -- training ----------------------------------------------------------------------------------------------------------

    def catalogue(self) -> Tensor:
        """Vectors of all items, as training compares histories with them ``[n_items, d]``; in training by the soft path."""
        return self.items.catalogue(self.soft_vectors() if self.training else None)

    def soft_vectors(self) -> Tensor:
        """What the codes of all items say, with a gradient towards the tokenizer: ``[n_items, d]``, row 0 is zero."""
        with torch.autocast(self.item_content.device.type, enabled=False):  # bfloat16 would choose other codes than evaluation does
            indices = self.tokenizer.soft_codes(self.item_content[1:], self.tuning_temperature)  # L of [n_items - 1, K]
            tables = self.items.code_embedding.weight[1:].split(list(self.codebook_sizes))  # L of [K, d], after the padding token
            vectors = sum(index @ table for index, table in zip(indices, tables, strict=True))
        return F.pad(vectors, (0, 0, 1, 0))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """R3GR's, and what the tokenizer keeps reconstructing of the items of the batch.

        Args:
            interaction: Windows of a :class:`~recbole_r3vae.data.sequences.WindowDataset`.
        """
        items = torch.cat([interaction[self.ITEM_SEQ], interaction[TARGET_LIST_FIELD]], dim=1).unique()
        losses = self.tokenizer.losses(self.item_content[items[items > 0]])
        return super().calculate_loss(interaction) + sum(weight * losses[term] for term, weight in self.kept.items())

    def after_step(self, batch: Interaction) -> None:
        """Semantic IDs are no longer those of the weights."""
        self._moved = True

    # -- the semantic IDs as they have become -----------------------------------------------------------------------------

    @property
    def sources(self) -> Sources:
        """What the model asked for; the semantic IDs are made anew where the weights have moved since."""
        if self._moved:
            self.retokenize()
        return self._sources

    @sources.setter
    def sources(self, sources: Sources) -> None:
        self._sources = sources

    def retokenize(self) -> None:
        """Make the semantic IDs of all items by the weights as they are."""
        codes = self.tokenizer.tokenize(self.item_content[1:]).cpu()  # [n_items - 1, L]
        self._take(F.pad(codes, (0, 0, 1, 0), value=-1))

    def _take(self, codes: Tensor) -> None:
        """Have the semantic IDs ``[n_items, L]``, row 0 is -1."""
        self._moved, sids = False, self._sources.semantic_ids
        if not torch.equal(codes, sids.codes):
            sources = replace(self._sources, semantic_ids=replace(sids, codes=codes, meta={**sids.meta, "tuned_by": type(self).__name__}))
            self._know(sources)
            self.items.know(sources)
            self.forget()

    def train(self, mode: bool = True) -> MMQGR:
        """As of any module; whoever leaves training has the semantic IDs of the weights."""
        if not mode and self._moved:
            self.retokenize()
        return super().train(mode)

    def other_parameter(self) -> dict[str, Any]:
        """The codes, beside the weights that made them."""
        return {"codes": self.sources.semantic_ids.codes}

    def load_other_parameter(self, values: dict[str, Any]) -> None:
        """Take the codes of a checkpoint."""
        self._take(values["codes"].cpu().long())

    # -- what it says of itself --------------------------------------------------------------------------------------------

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, items are not read by their codes, or there is no tokenizer that can be tuned.
        """
        super().check(config)
        if CODES not in config["item_inputs"]:
            raise UserError(f"item_inputs is {config['item_inputs']}, and {cls.__name__} tunes codes; give some with codes, such as [codes]")
        if config["sid_file"]:
            raise UserError(
                f"sid_file is {config['sid_file']}, and {cls.__name__} trains a tokenizer on, which a file is not; leave sid_file out, or "
                "give --model=R3GR --rank_by=dense"
            )
        if config["tokenizer"] and not get_tokenizer(config["tokenizer"]).tunable:
            raise UserError(f"tokenizer is {config['tokenizer']}, whose codes have no soft path; give one that is tunable, such as MMQ")

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Semantic IDs as the tokenizer gives them, all content, and the tokenizer itself."""
        return Needs(SHARED, content=(), tokenizer=True)

    @classmethod
    def result_name(cls, config: Config) -> str:
        """``MMQGR``; ``MMQGR-hybrid`` where it reads item ids."""
        return f"{cls.__name__}{'-hybrid' if ID in config['item_inputs'] else ''}"

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """Of its terms."""
        return f"{super().loss_name(config)} + reconstruction"

    def grow(self, sources: Sources) -> None:
        """Know more items, see :meth:`.Contract.grow`."""
        new = copied(sources.content.embeddings[len(self.item_content) :]).to(self.item_content.device)
        super().grow(sources)
        self.item_content = torch.cat([self.item_content, new])


class _Shape:
    """What a tokenizer's constructor reads of its items."""

    def __init__(self, content: Any):
        self.dim, self.parts = content.embeddings.shape[1], content.parts
