"""Fetch images. This is the only module that opens image addresses.

Anybody who may import tasks chooses the addresses, so they are not trusted:

* relative addresses (``/data/upload/…``, ``/data/local-files/…``) and full ones on Label Studio's own host,
  also under its address for browsers (``GROUNDSWELL_STUDIO_PUBLIC_URL``), go to Label Studio with its token;
  the token goes nowhere else, and only to the routes that hold images (see ``studio_routes``);
* cloud addresses (``s3://``, ``gs://``, ``azure-blob://``) are resolved by Label Studio, which signs them;
* other ``http(s)`` hosts are refused unless ``GROUNDSWELL_ALLOW_IMAGE_HOSTS`` names them, so that a task
  cannot make this server call into its own network; redirects are followed by the same rules, and none leads
  from another host to Label Studio;
* hosts besides Label Studio must have public addresses, unless they are named and lie in a network of
  ``GROUNDSWELL_ALLOW_IMAGE_NETWORKS``; what was checked is what is called (see ``network``);
* files are read only below the folders of ``GROUNDSWELL_ALLOW_IMAGE_DIRS`` (after resolving links);
* ``data:`` addresses contain the image.

Both kinds of Label Studio tokens work: a legacy token is sent as it is, a personal access token (a JWT) is
exchanged for short-lived access tokens.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

from ml_backend.errors import BadImage, ImageUnavailable, StudioError
from ml_backend.images.addresses import (
    DEFAULT_PORT,
    CacheKey,
    cache_key,
    checked_address,
    file_path,
    joined,
    origin_of,
    scheme_of,
    short_address,
)
from ml_backend.images.bodies import ASKED, read_body
from ml_backend.images.network import AddressRule, PrivateAddress, TooSlow, ends_at, guarded_client
from ml_backend.images.studio_auth import StudioAuth
from ml_backend.images.studio_routes import address_from_here, is_image_route
from ml_backend.settings import BackendSettings

__all__ = ["Fetcher"]

_CLOUD: Final = frozenset({"s3", "s3s", "gs", "azure-blob", "azure_blob", "gcs"})
_MAX_REDIRECTS: Final = 4
_CONNECT_S: Final = 5.0


_PASSING: Final = frozenset({401, 403, 408, 409, 425, 429})
"""statuses that may change when a token, a permission or the load changes; so may all from 500 on"""


class Fetcher:
    """Fetches the bytes of image addresses; the module says which are allowed."""

    def __init__(self, settings: BackendSettings, *, client: httpx.Client | None = None) -> None:
        self._base = settings.studio_url
        self._public = settings.studio_public_url
        self._origin = origin_of(self._base)
        self._named = settings.image_hosts()
        self._allowed_dirs = [Path(d).resolve() for d in settings.allow_image_dirs.split(":") if d.strip()]
        self._max_bytes = settings.max_image_bytes
        self._deadline_s = settings.fetch_deadline_s
        wait_s = settings.fetch_timeout_s
        timeout = httpx.Timeout(wait_s, connect=min(_CONNECT_S, wait_s))
        rule = AddressRule(self._origin[1:], self._named, settings.image_networks())
        self._client = client or guarded_client(rule, timeout)
        self._auth = StudioAuth(self._base, settings.current_studio_token, client=self._client)

    @property
    def auth(self) -> StudioAuth:
        """The credentials used for Label Studio's own host."""
        return self._auth

    def cache_key(
        self,
        value: str,
        *,
        task_id: int | None = None,
        project_id: int | None = None,
        field: str = "data.image",
    ) -> CacheKey:
        """The key under which an address may be cached; see ``ml_backend.images.addresses.cache_key``.

        Raises BadImage when the address contains characters that cannot be sent.
        """
        scope = f"task {task_id}" if project_id is None else f"project {project_id}"
        return cache_key(self._from_here(value, field), studio_url=self._base, scope=scope)

    def fetch(
        self,
        value: str,
        *,
        task_id: int | None = None,
        project_id: int | None = None,
        field: str = "data.image",
    ) -> bytes:
        """The bytes behind an address. Raises BadImage or StudioError, saying what was tried and what to
        set.
        """
        value = self._from_here(value, field)
        if not value:
            raise BadImage("the task has no image address", field=field)
        if value.startswith("data:"):
            return self._inline(value, field)
        tried: list[str] = []
        path = file_path(value)
        if path is not None:
            found = self._file(path, tried)
            if found is not None:
                return found
            if value.startswith("file:"):
                raise _nothing(value, tried, field)
        scheme = scheme_of(value, field)
        if scheme in _CLOUD:
            return self._http(self._cloud_address(value, task_id, project_id, field), field, tried)
        if scheme in DEFAULT_PORT:
            return self._http(value, field, tried)
        if scheme:
            raise BadImage(
                f"addresses with {scheme}: are not supported ({short_address(value)})", field=field
            )
        address = value if value.startswith("/") else f"/{value}"
        return self._http(self._base + address, field, tried)

    def _from_here(self, value: str, field: str) -> str:
        value = checked_address(value, field)
        return address_from_here(value, public_url=self._public, studio_url=self._base)

    # strategies

    def _inline(self, value: str, field: str) -> bytes:
        head, comma, body = value.partition(",")
        if not comma or not head.startswith("data:image/"):
            raise BadImage("the data: address is not an image", field=field)
        try:
            data = (
                base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
            )
        except (binascii.Error, ValueError) as error:
            raise BadImage(f"the data: address is not base64 ({error})", field=field) from error
        return self._within_cap(data, field)

    def _file(self, path: Path, tried: list[str]) -> bytes | None:
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):  # links in a loop, or a null byte in the name
            tried.append("file: no possible path")
            return None
        if not any(real.is_relative_to(folder) for folder in self._allowed_dirs):
            tried.append(f"file {path}: not below an allowed folder (GROUNDSWELL_ALLOW_IMAGE_DIRS)")
            return None
        try:
            if real.stat().st_size > self._max_bytes:
                tried.append(f"file {path}: larger than {self._max_bytes} bytes")
                return None
            return real.read_bytes()
        except OSError as error:
            tried.append(f"file {path}: {os.strerror(error.errno or 0)}")
            return None

    def _cloud_address(self, value: str, task_id: int | None, project_id: int | None, field: str) -> str:
        """Label Studio's address for a storage address: by task, or by project if the task is not known."""
        if task_id is None and project_id is None:
            raise BadImage(
                f"{short_address(value)} can be resolved for a stored task only",
                field=field,
                hint="Import the task first",
            )
        place = f"tasks/{task_id}" if task_id is not None else f"projects/{project_id}"
        code = base64.urlsafe_b64encode(value.encode()).decode()
        return f"{self._base}/{place}/resolve/?fileuri={code}"

    def _http(self, address: str, field: str, tried: list[str]) -> bytes:
        end = time.monotonic() + self._deadline_s
        start = urlsplit(address)
        from_studio = self._is_studio(address)
        abroad = not from_studio
        renewed = False
        hop = 0
        while hop <= _MAX_REDIRECTS:
            self._check_host(address, field, tried, redirected_by_studio=from_studio and hop > 0)
            own = self._is_studio(address)
            if own and abroad:
                tried.append(f"GET {short_address(address)}: another host led to Label Studio")
                raise _nothing(start.geturl(), tried, field)
            abroad = abroad or not own
            with ends_at(end):
                headers = self._auth.header(renew=renewed) if own else {}
                status, location, body = self._request(address, headers, field, tried)
            if body is not None:
                return body
            if location is not None:
                address = joined(address, location, field)
                hop += 1
                continue
            if status == 401 and own and not renewed and self._auth.can_renew():
                renewed = True
                continue
            raise self._refused(address, status, field, tried)
        raise BadImage(
            f"more than {_MAX_REDIRECTS} redirects from {short_address(start.geturl())}", field=field
        )

    def _request(
        self, address: str, headers: dict[str, str], field: str, tried: list[str]
    ) -> tuple[int, str | None, bytes | None]:
        """(status, target of a redirect, body): one of the last two at most."""
        try:
            with self._client.stream("GET", address, headers=ASKED | headers) as reply:
                if reply.is_redirect:
                    return reply.status_code, reply.headers.get("location", ""), None
                if reply.status_code != 200:
                    return reply.status_code, None, None
                body = read_body(
                    reply,
                    name=short_address(address),
                    limit=self._max_bytes,
                    field=field,
                    page_hint=""
                    if headers
                    else "If it is Label Studio that asks to log in: check GROUNDSWELL_STUDIO_TOKEN",
                )
                return 200, None, body
        except PrivateAddress as error:
            tried.append(f"GET {short_address(address)}: {error}")
            name, network = _name_of_host(address), error.address.split("%")[0]
            raise _nothing(
                address,
                tried,
                field,
                hint="If it is a host of your own network, set both: "
                f"{name} in GROUNDSWELL_ALLOW_IMAGE_HOSTS, and {network}, or its network, in "
                "GROUNDSWELL_ALLOW_IMAGE_NETWORKS",
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            slow = isinstance(error, TooSlow)
            what = f"it took longer than {self._deadline_s:g} s" if slow else type(error).__name__
            tried.append(f"GET {short_address(address)}: {what}")
            if self._is_studio(address):
                raise StudioError(
                    f"Label Studio at {self._base} cannot be reached ({what})",
                    field=field,
                    hint="Check GROUNDSWELL_STUDIO_URL: it must be the address as seen from this machine",
                ) from error
            raise _nothing(address, tried, field, kind=ImageUnavailable) from error

    def _refused(self, address: str, status: int, field: str, tried: list[str]) -> BadImage:
        hint = ""
        if self._is_studio(address):
            hint = {
                401: "Check GROUNDSWELL_STUDIO_TOKEN (legacy tokens must be enabled in the organisation)",
                403: "The token's user may not see this file, or no local-files storage covers its folder",
                404: "The file is gone, or local file serving is off or has no storage row for its folder",
            }.get(status, "See Label Studio's log")
        tried.append(f"GET {short_address(address)}: HTTP {status}")
        passes = status in _PASSING or status >= 500
        return _nothing(address, tried, field, hint=hint, kind=ImageUnavailable if passes else BadImage)

    def _within_cap(self, data: bytes, field: str) -> bytes:
        if len(data) > self._max_bytes:
            raise BadImage(f"the image is larger than {self._max_bytes} bytes", field=field)
        return data

    # who may be called

    def _is_studio(self, address: str) -> bool:
        return origin_of(address) == self._origin

    def _check_host(self, address: str, field: str, tried: list[str], *, redirected_by_studio: bool) -> None:
        parts = urlsplit(address)
        if scheme_of(address, field) not in DEFAULT_PORT or not parts.hostname:
            raise BadImage(f"{short_address(address)} is not an http address", field=field)
        if self._is_studio(address):
            if is_image_route(address, self._base):
                return
            tried.append(f"GET {short_address(address)}: not a route of Label Studio that holds images")
            raise _nothing(
                address,
                tried,
                field,
                hint="Images come from /data/upload/, /data/local-files/, storages, and the hosts of "
                "GROUNDSWELL_ALLOW_IMAGE_HOSTS. If Label Studio itself led here, it asks to log in: check "
                "GROUNDSWELL_STUDIO_TOKEN",
            )
        host, port = origin_of(address)[1:]
        if (host, port) in self._named:
            return
        if redirected_by_studio and (host, port) != self._origin[1:]:
            return  # a storage link that Label Studio signed; the connection takes public addresses only
        tried.append(f"GET {short_address(address)}: host {host} is not allowed")
        raise _nothing(
            address,
            tried,
            field,
            hint=f"Label Studio is {self._base} here; GROUNDSWELL_ALLOW_IMAGE_HOSTS may name "
            f"{_name_of_host(address)}",
        )


def _name_of_host(address: str) -> str:
    """How GROUNDSWELL_ALLOW_IMAGE_HOSTS names the host of an address: with its port where that is needed."""
    scheme, host, port = origin_of(address)
    shown = f"[{host}]" if ":" in host else host
    return shown if port == DEFAULT_PORT[scheme] else f"{shown}:{port}"


def _nothing(
    value: str, tried: list[str], field: str, *, hint: str = "", kind: type[BadImage] = BadImage
) -> BadImage:
    return kind(
        f"cannot read {short_address(value)}: {'; '.join(tried) or 'nothing to try'}", field=field, hint=hint
    )
