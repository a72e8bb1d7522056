"""Web addresses of pictures become tasks; the pictures stay where they are."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ml_backend.errors import BadImage, BadInput, StudioError
from ml_backend.images.store import ImageStore
from sync.studio.protocol import StudioClient

__all__ = ["AddedAddresses", "add_addresses", "check_hosts", "read_addresses"]

_SCHEMES: Final = frozenset({"http", "https", "s3", "gs", "azure-blob"})
_COLUMNS: Final = ("url", "image", "address")
_AT_ONCE: Final = 1000
_LONGEST: Final = 4000


@dataclass(frozen=True, slots=True)
class AddedAddresses:
    """Tasks made, addresses that were there already, and a line for each that cannot be used."""

    count: int
    there: int
    refused: tuple[str, ...]


def read_addresses(path: Path) -> Iterator[tuple[int, str]]:
    """Number of the line and address, from a text file with one a line or a CSV file with a column ``url``.

    Empty lines and lines that begin with # are skipped. Raises BadInput when the file cannot be read or the
    column is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.suffix.lower() != ".csv":
                for number, line in enumerate(file, start=1):
                    if line.strip() and not line.startswith("#"):
                        yield number, line.strip()
                return
            reader = csv.DictReader(file)
            column = next((name for name in _COLUMNS if name in (reader.fieldnames or ())), None)
            if column is None:
                raise BadInput(f"{path.name} has no column {' or '.join(_COLUMNS)}", field="source")
            for row in reader:
                if value := (row[column] or "").strip():
                    yield reader.line_num, value
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read: {error}", field="source") from error


def add_addresses(
    studio: StudioClient,
    project_id: int,
    field: str,
    addresses: Iterable[tuple[int, str]],
    *,
    dry_run: bool = False,
) -> AddedAddresses:
    """Make a task of each address that no task has yet; each address is used once.

    Raises StudioError; calling again goes on from there.
    """
    known = {str(data.get(field)) for _, data in studio.task_data(project_id)}
    count = there = 0
    refused: list[str] = []

    def fresh() -> Iterator[str]:
        nonlocal there
        for number, address in addresses:
            if problem := _problem(address):
                refused.append(f"line {number}: {problem}")
            elif address in known:
                there += 1
            else:
                known.add(address)
                yield address

    found = fresh()
    while part := list(islice(found, _AT_ONCE)):
        if not dry_run:
            studio.import_tasks(project_id, [{field: address} for address in part])
        count += len(part)
    return AddedAddresses(count, there, tuple(refused))


def check_hosts(images: ImageStore, project_id: int, addresses: Iterable[tuple[int, str]]) -> None:
    """Read one picture of each host, as the worker will have to. Raises BadInput naming host and reason."""
    seen: set[str] = set()
    for number, address in addresses:
        if _problem(address) or (host := urlsplit(address).netloc) in seen:
            continue
        seen.add(host)
        try:
            images.get(address, project_id=project_id)
        except (BadImage, StudioError) as error:
            raise BadInput(
                f"the picture of line {number} cannot be read here: {error.message}",
                field="source",
                hint=error.hint or "--no-check adds the pictures all the same",
            ) from error


def _problem(address: str) -> str:
    """Why an address cannot be one of a picture; empty when it can."""
    try:
        parts = urlsplit(address)
    except ValueError as error:
        return f"{address!r:.80} is no address: {error}"
    if len(address) > _LONGEST or any(ord(c) < 33 for c in address):
        return f"{address!r:.80} is too long or holds spaces"
    if parts.scheme not in _SCHEMES or not parts.netloc:
        return f"{address!r:.80} does not begin with {', '.join(f'{s}://' for s in sorted(_SCHEMES))}"
    if parts.username or parts.password:
        return "it holds a password: every annotator would see it"
    return ""
