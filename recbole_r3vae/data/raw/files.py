"""Reading public raw files line by line, from disk, an archive or a URL, and cleaning the text in them."""

from __future__ import annotations

import gzip
import hashlib
import html
import http.client
import os
import re
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write

_CHUNK = 1 << 20  # bytes read from a connection at once
_TIMEOUT = 60  # seconds without a byte after which a connection counts as dead
_LINES_PER_UPDATE = 2048  # asking a stream for its position can cost more than parsing a line
_DAMAGED = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")  # Unicode's spaces and line ends, control characters


@dataclass(frozen=True)
class RawFile:
    """A text file as published: plain, gzip-compressed, or a member of a zip archive.

    Args:
        path: The file on this machine.
        member: Name inside the archive, or None when ``path`` is the file itself.
    """

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path} ({self.member})"

    def lines(self, show_progress: bool = True, latin1: bool = False) -> Iterator[tuple[int, str]]:
        """The lines that are not blank, one at a time, without their line ends.

        Args:
            show_progress: Show a progress bar over the file's bytes.
            latin1: Read a line that is not UTF-8 as Latin-1 (every byte string is); older data sets need it.

        Yields:
            The line's number, from 1, and its text.

        Raises:
            UserError: the file cannot be read to its end, or a line is not UTF-8 and must not be Latin-1.
        """
        number = 0
        try:
            with ExitStack() as stack:
                stream, position, total = self._open(stack)
                name = Path(self.member or self.path).name
                bar = stack.enter_context(
                    tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=not show_progress)
                )
                for number, raw in enumerate(stream, start=1):
                    if number % _LINES_PER_UPDATE == 0:
                        bar.update(position() - bar.n)
                    line = self._decode(raw, number, latin1).rstrip("\r\n")
                    if line.strip():
                        yield number, line
                bar.update(total - bar.n)
        except _DAMAGED as error:
            raise UserError(
                f"{self} cannot be read after line {number}: {error}; the file looks damaged or incomplete, "
                "download it again"
            ) from error

    def error(self, number: int, line: str, expected: str) -> UserError:
        """The error for a line that is not what the format says, naming file, line and what was expected."""
        excerpt = line if len(line) <= 80 else f"{line[:80]}..."
        return UserError(
            f"{self}, line {number}: expected {expected}, got {excerpt!r}; mend or remove the line, or "
            "download the file again"
        )

    def _open(self, stack: ExitStack) -> tuple[BinaryIO, Callable[[], int], int]:
        """Open for reading: the stream of lines, where the progress bar stands, and where it will end."""
        if self.member is not None:
            archive = stack.enter_context(zipfile.ZipFile(self.path))
            stream = stack.enter_context(archive.open(self.member))
            return stream, stream.tell, archive.getinfo(self.member).file_size
        raw = stack.enter_context(open(self.path, "rb"))
        size = self.path.stat().st_size
        magic = raw.read(4)
        raw.seek(0)
        if magic == b"PK\x03\x04":
            raise UserError(f"{self.path} is a zip archive; give it as the source 'zip' (--zip {self.path})")
        if magic.startswith(b"\x1f\x8b"):  # by content, not by name: servers and browsers unpack .gz files
            return stack.enter_context(gzip.GzipFile(fileobj=raw)), raw.tell, size  # in compressed bytes
        return raw, raw.tell, size

    def _decode(self, raw: bytes, number: int, latin1: bool) -> str:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            if not latin1:
                way = "save the file as UTF-8, as `iconv -f latin1 -t utf-8` does, or download it again"
                raise UserError(f"{self}, line {number}: {raw[:40]!r} is not UTF-8 text; {way}") from error
            text = raw.decode("latin-1")
        return text.removeprefix("\ufeff") if number == 1 else text


def local_path(source: str | os.PathLike[str], downloads: Path, show_progress: bool = True) -> Path:
    """The file on this machine that a source names, downloaded first where it is a URL.

    Args:
        source: A path, or an ``http``, ``https`` or ``file`` URL.
        downloads: Folder for downloaded files.
        show_progress: Show a progress bar while downloading.

    Returns:
        Path of an existing file.

    Raises:
        UserError: no such file, a folder instead of a file, a URL of another scheme, or a failed download.
    """
    url = _URL.match(source) if isinstance(source, str) else None
    if url is not None:
        if url[1].lower() not in ("http", "https", "file"):
            raise UserError(f"cannot download {source}: {url[1]!r} is no way to get a file; give an http, https or file URL, or a path")
        return download(str(source), downloads, show_progress)
    path = Path(source).expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file in it")
    if not path.is_file():
        raise UserError(f"{path} does not exist; check the path, or give a URL to download it from")
    return path


def download(url: str, folder: Path, show_progress: bool = True) -> Path:
    """Fetch a URL into a folder; the file appears there only when it is whole.

    A file that an earlier call fetched from the same URL is used again; delete it to fetch it anew.

    Args:
        url: An ``http``, ``https`` or ``file`` URL.
        folder: Where to put the file; made if it does not exist.
        show_progress: Show a progress bar over the bytes.

    Returns:
        Path of the file, ``<8 hex digits of the URL's hash>-<name in the URL>``.

    Raises:
        UserError: the URL cannot be opened or breaks off, or the folder cannot be written to.
    """
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name or "download"
    target = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    if target.is_file():
        return target
    try:
        # Under a name of its own: some hosts refuse urllib's.
        request = urllib.request.Request(url, headers={"User-Agent": "recbole-r3vae"})
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failed(url, error) from error
    with response:
        length = response.headers.get("Content-Length")
        total = int(length) if length is not None and length.isdigit() else None
        bar = tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=not show_progress)
        with bar, atomic_write(target, "wb") as file:
            received = 0
            while chunk := _read(response, url):
                file.write(chunk)
                received += len(chunk)
                bar.update(len(chunk))
            if total is not None and received != total:
                raise _failed(url, f"the connection ended after {received:,} of {total:,} bytes")
    return target


def _read(response: BinaryIO, url: str) -> bytes:
    # Turned into a UserError here, or atomic_write would report a broken connection as a full disk.
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _failed(url, error) from error


def _failed(url: str, reason: object) -> UserError:
    return UserError(f"cannot download {url}: {reason}; check the URL, or fetch the file and give its path")


def zip_members(path: Path, names: Iterable[str]) -> list[RawFile]:
    """The members of a zip archive with the first of several file names that occurs in it, in any folder.

    Args:
        path: The archive.
        names: File names without folders, the preferred one first.

    Returns:
        The members that carry the first of ``names`` found, in alphabetical order; empty when there is none.

    Raises:
        UserError: ``path`` is not a zip archive, or a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be opened as a zip archive: {error}; download it again") from error
    for name in names:
        found = sorted(member for member in members if member.rsplit("/", 1)[-1] == name)
        if found:
            return [RawFile(path, member) for member in found]
    return []


def clean_text(text: str) -> str:
    """Text that fits one cell of an atomic file.

    HTML entities are unescaped; runs of spaces, tabs, line ends and control characters become one space; a
    double quote that opens the text is dropped, because RecBole's reader (pandas) would take it for the start
    of a quoted field and swallow the lines that follow.

    Args:
        text: Text as published.

    Returns:
        The cleaned text, possibly empty; it can always be encoded as UTF-8.

    Raises:
        TypeError: ``text`` is something else; records of unknown origin come through here.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected text, got {type(text).__name__}")
    text = html.unescape(text)
    # JSON and Python escapes can hold half a surrogate pair ("\ud83d"), UTF-8 cannot: join or replace.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _BLANK.sub(" ", text).strip().lstrip('" ')


def name_sequence(names: Iterable[str]) -> str:
    """Names as a ``token_seq`` cell: a token each, in order, no repeats, ``_`` for spaces inside."""
    tokens = ("_".join(clean_text(name).split()) for name in names)
    return " ".join(dict.fromkeys(token for token in tokens if token))
