"""The key ``item_text_template``: an item's text as a sentence with the names of its fields in braces."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from recbole_r3vae.data.content.words import FieldValue, members
from recbole_r3vae.errors import UserError, short_repr

WORDS, LIST = " ", ", "
"""What stands between the members of a sequence: the words of a title, the names in a list."""

_PIECE = re.compile(r"\{\{|\}\}|\{(?P<slot>[^{}]*)\}|(?P<stray>[{}])")
_CLOSING = re.compile(r"""[)\]}>"'”’»]*""")
_SEPARATORS = " \t\n.,;:|/&+-–—·"


@dataclass(frozen=True)
class Slot:
    """A field of a template, and the text that is left out with it.

    Attributes:
        field: Its name.
        before: The text in front of it, back to the field before it.
        after: Closing brackets and quotes behind it; behind the last field, all the rest.
        joiner: What stands between its members; ``None`` where the template does not say.
    """

    field: str
    before: str
    after: str
    joiner: str | None


@dataclass(frozen=True)
class TextTemplate:
    """A template such as ``{title} ({brand}). Categories: {categories}``.

    Names in braces are looked up and nothing is evaluated; ``{{`` and ``}}`` are braces themselves. ``{tags: / }`` says after the colon
    what stands between the members of the field; without it that is decided by :meth:`resolved`. An empty field is left out with the text
    in front of it, back to the field before it, and with closing brackets and quotes behind it; with the last field goes what follows it.
    Where the first field is empty, the text begins at the first word or bracket before the next one.
    """

    slots: tuple[Slot, ...]

    @classmethod
    def parse(cls, text: str) -> TextTemplate:
        """Take a template apart.

        Args:
            text: As the key ``item_text_template`` gives it.

        Raises:
            UserError: it is no text, a brace has no partner, or no field or an empty one is named.
        """
        example = "write names of fields in braces, in quotes as a whole: '{title}. Categories: {categories}'"
        if not isinstance(text, str):
            raise UserError(f"item_text_template is {short_repr(text)} ({type(text).__name__}); {example}")
        found, literals, end = [], [""], 0
        for piece in _PIECE.finditer(text):
            literals[-1] += text[end : piece.start()]
            end = piece.end()
            if piece["stray"]:
                raise UserError(f"item_text_template {short_repr(text)}: {piece[0]!r} at character {piece.start() + 1} has no partner; {example}")
            if piece["slot"] is None:
                literals[-1] += piece[0][0]  # a doubled brace is one
                continue
            name, colon, joiner = piece["slot"].partition(":")
            if not name.strip():
                raise UserError(f"item_text_template {short_repr(text)}: {piece[0]!r} names no field; {example}")
            found.append((name.strip(), joiner if colon else None))
            literals.append("")
        if not found:
            raise UserError(f"item_text_template {short_repr(text)} names no field; {example}")
        literals[-1] += text[end:]
        slots, before = [], literals[0]
        for number, (name, joiner) in enumerate(found, start=1):
            behind = literals[number]
            cut = len(behind) if number == len(found) else _CLOSING.match(behind).end()
            slots.append(Slot(name, before, behind[:cut], joiner))
            before = behind[cut:]
        return cls(tuple(slots))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are named, each once."""
        return tuple(dict.fromkeys(slot.field for slot in self.slots))

    def resolved(self, lists: Collection[str]) -> TextTemplate:
        """The template with every joiner said, so that a new item's text does not depend on what the other items are like.

        Args:
            lists: The fields that are lists of names; their members are joined by ``", "``, those of all others by a space.
        """
        joiner = {field: LIST if field in lists else WORDS for field in self.fields}
        return TextTemplate(tuple(replace(s, joiner=joiner[s.field]) if s.joiner is None else s for s in self.slots))

    def fill(self, record: Mapping[str, FieldValue]) -> str:
        """The text of one item.

        Args:
            record: Field name to value, see :func:`~recbole_r3vae.data.content.words.clean_text`; a field that is missing is empty.

        Returns:
            The text, empty when all fields are.
        """
        text = ""
        for number, slot in enumerate(self.slots):
            joiner = WORDS if slot.joiner is None else slot.joiner
            value = joiner.join(members(record[slot.field])) if slot.field in record else ""
            if value:
                before = slot.before if text or number == 0 else slot.before.lstrip(_SEPARATORS)
                text += f"{before}{value}{slot.after}"
        return text.strip()

    def __str__(self) -> str:
        """As :meth:`parse` takes it, with the joiners that are known."""

        def escaped(literal: str) -> str:
            return literal.replace("{", "{{").replace("}", "}}")

        def braced(slot: Slot) -> str:
            return f"{{{slot.field}}}" if slot.joiner is None else f"{{{slot.field}:{slot.joiner}}}"

        return "".join(escaped(slot.before) + braced(slot) + escaped(slot.after) for slot in self.slots)
