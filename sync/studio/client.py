"""The Label Studio client: one user of one server. Its calls are grouped by subject, one module each.

Every call of Groundswell to Label Studio is in this folder; the requests themselves are made by ``http``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

from sync.studio.annotation_calls import AnnotationCalls
from sync.studio.connection_calls import SECRET_HEADER, ConnectionCalls
from sync.studio.http import StudioHttp
from sync.studio.protocol import StudioClient, UserRow
from sync.studio.rows import user_row
from sync.studio.storage_calls import StorageCalls
from sync.studio.task_calls import TaskCalls
from sync.studio.tokens import request_headers, sdk_client, token_of
from sync.studio.users import add_user, user_token
from sync.studio.view_calls import ViewCalls

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio

__all__ = ["SECRET_HEADER", "AnyClient", "Studio", "as_studio"]

AnyClient: TypeAlias = "LabelStudio | StudioClient"
"""what functions for admins accept: the SDK's client, or one of ours"""


class Studio(TaskCalls, AnnotationCalls, ConnectionCalls, StorageCalls, ViewCalls):
    """A Label Studio server as one user.

    Parameters
    ----------
    url : address of the server, for example ``http://127.0.0.1:8080``
    token : legacy token or personal access token of the user, or a function that reads it; never logged. The
        function is asked again when Label Studio refuses the token, so that a token may change meanwhile
    """

    def __init__(self, url: str, token: str | Callable[[], str], *, attempts: int = 5) -> None:
        read = token if callable(token) else lambda: token
        self._bind(url, read, sdk_client(url, read()), attempts)

    @classmethod
    def wrap(cls, client: LabelStudio, *, attempts: int = 5) -> Studio:
        """A client of ours made from an existing ``label_studio_sdk.LabelStudio`` client."""
        studio = cls.__new__(cls)
        url = str(client._client_wrapper.get_base_url())
        studio._bind(url, lambda: token_of(client), client, attempts)
        return studio

    def _bind(self, url: str, read_token: Callable[[], str], client: LabelStudio, attempts: int) -> None:
        self.sdk = client
        self._read_token = read_token
        self._attempts = attempts
        self._http = StudioHttp(
            url, lambda: request_headers(self.sdk), renew=self._take_new_token, attempts=attempts
        )

    def _take_new_token(self) -> bool:
        """Read the token again; True when it has changed, so that the call is worth repeating."""
        token = self._read_token()
        if not token or token == token_of(self.sdk):
            return False
        self.sdk = sdk_client(self.url, token)
        return True

    def __repr__(self) -> str:
        return f"Studio({self.url!r})"

    @property
    def url(self) -> str:
        return self._http.base_url

    def server_time(self) -> datetime | None:
        return self._http.server_time

    def whoami(self) -> str:
        """E-mail of the user this client acts as; the cheapest call that needs a valid token."""
        return str(self._http.get("/api/current-user/whoami")["email"])

    def version(self) -> str:
        """Version of the Label Studio server."""
        return str(self._http.get("/api/version")["release"])

    def users(self) -> list[UserRow]:
        return [user_row(item) for item in self._http.get("/api/users/")]

    def add_person(self, email: str, name: str) -> int:
        invite = str(self._http.get("/api/invite")["invite_url"])
        return add_user(self.url, email, name, invite_path=invite)

    def as_user(self, email: str, password: str) -> StudioClient:
        invite = str(self._http.get("/api/invite")["invite_url"])
        token = user_token(self.url, email, password, invite_path=invite)
        return Studio(self.url, token, attempts=self._attempts)


def as_studio(client: AnyClient) -> StudioClient:
    """A client of ours, made from a client of either kind."""
    from label_studio_sdk import LabelStudio

    return Studio.wrap(client) if isinstance(client, LabelStudio) else client
