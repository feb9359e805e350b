"""Item content: vectors of one or several modalities in one matrix, from items' texts or from files, encoded once and cached on disk."""

from recbole_r3vae.data.content.encoders import ItemEncoder, ModalityEncoders
from recbole_r3vae.data.content.item_content import ItemContent, join_content, parts_of
from recbole_r3vae.data.content.load import ContentLoader, content_from_vectors, load_content, load_encoder, save_encoder
from recbole_r3vae.data.content.modalities import LEARNED, Modality, modalities

__all__ = [
    "LEARNED",
    "ContentLoader",
    "ItemContent",
    "ItemEncoder",
    "Modality",
    "ModalityEncoders",
    "content_from_vectors",
    "join_content",
    "load_content",
    "load_encoder",
    "modalities",
    "parts_of",
    "save_encoder",
]
