"""Pictures of a bucket become tasks: Label Studio lists the bucket and signs the addresses.

Credentials come from the environment, under the names that the tools of each cloud use. Label Studio keeps
them with the storage, as it needs them to show the pictures. Without them Label Studio uses those of its own
environment, where that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ml_backend.errors import BadInput
from sync.studio.protocol import StudioClient

__all__ = ["SCHEMES", "Bucket", "add_bucket", "parse_bucket"]

SCHEMES: Final[Mapping[str, str]] = {"s3": "s3", "gs": "gcs", "azure-blob": "azure"}
"""kind of Label Studio's storage by the scheme of the address"""
_PICTURES: Final = r"(?i).*\.(jpe?g|png|webp|bmp|gif)$"
_ENVIRONMENT: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "s3": {
        "aws_access_key_id": ("AWS_ACCESS_KEY_ID",),
        "aws_secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
        "aws_session_token": ("AWS_SESSION_TOKEN",),
        "region_name": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        "s3_endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    },
    "gcs": {
        "google_application_credentials": ("GOOGLE_APPLICATION_CREDENTIALS",),
        "google_project_id": ("GOOGLE_CLOUD_PROJECT",),
    },
    "azure": {
        "account_name": ("AZURE_BLOB_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"),
        "account_key": ("AZURE_BLOB_ACCOUNT_KEY", "AZURE_STORAGE_KEY"),
    },
}
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": ("aws_access_key_id", "aws_secret_access_key"),
    "gcs": ("google_application_credentials",),
    "azure": ("account_name", "account_key"),
}


@dataclass(frozen=True, slots=True)
class Bucket:
    """A place in a bucket: the kind of storage, and what Label Studio wants to know about it.

    ``fields`` hold credentials, so they are never printed.
    """

    address: str
    kind: str
    fields: Mapping[str, Any] = field(repr=False)


def parse_bucket(
    address: str,
    environment: Mapping[str, str],
    *,
    server_credentials: bool = False,
    pattern: str = _PICTURES,
) -> Bucket:
    """The bucket behind ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``azure-blob://container/prefix``.

    ``environment`` holds the credentials; ``server_credentials`` leaves them to Label Studio's environment.
    ``pattern`` is a regular expression of the objects that are pictures. Raises BadInput naming the variables
    that are missing.
    """
    try:
        parts = urlsplit(address)
    except ValueError:  # a bracket without its other half
        parts = urlsplit("")
    kind = SCHEMES.get(parts.scheme)
    if kind is None or not parts.netloc:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise BadInput(
            f"{address!r} is no address of a bucket", field="source", hint=f"It begins with {known}"
        )
    if parts.username or parts.password or parts.query:
        raise BadInput(
            "credentials do not belong into the address", field="source", hint="Set them in the environment"
        )
    found: dict[str, Any] = {
        "container" if kind == "azure" else "bucket": parts.netloc,
        "prefix": parts.path.strip("/"),
        "regex_filter": pattern,
        "use_blob_urls": True,
        "presign": True,
        "recursive_scan": True,
        "title": address,
    }
    if not server_credentials:
        found |= _credentials(kind, environment)
    return Bucket(address, kind, found)


def _credentials(kind: str, environment: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, variables in _ENVIRONMENT[kind].items():
        value = next((environment[v] for v in variables if environment.get(v)), "")
        if not value and name in _NEEDED[kind]:
            raise BadInput(
                f"{variables[0]} is not set",
                field="environment",
                hint="Set it, or use --server-credentials where Label Studio's own environment has it",
            )
        if value:
            found[name] = value
    if kind == "gcs":  # the variable names a file, Label Studio wants what is in it
        path = Path(found["google_application_credentials"])
        try:
            found["google_application_credentials"] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"the file of GOOGLE_APPLICATION_CREDENTIALS cannot be read: {type(error).__name__}",
                field="environment",
            ) from error
    return found


def add_bucket(studio: StudioClient, project_id: int, bucket: Bucket, *, dry_run: bool = False) -> int:
    """Make tasks of the pictures that the project lacks; how many. With ``dry_run``, only try the bucket.

    Raises StudioError when Label Studio cannot read it.
    """
    if dry_run:
        studio.check_storage(project_id, bucket.kind, bucket.fields)
        return 0
    before = studio.project(project_id).task_number
    studio.sync_storage(bucket.kind, studio.ensure_storage(project_id, bucket.kind, bucket.fields))
    return studio.project(project_id).task_number - before
