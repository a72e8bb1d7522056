"""Tokens of Label Studio, through the SDK: it knows both kinds and trades personal ones for access tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ml_backend.errors import StudioError
from sync.studio.http import HINTS

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio

__all__ = ["request_headers", "sdk_client", "token_of"]


def sdk_client(url: str, token: str) -> LabelStudio:
    """The SDK client for a legacy or personal token. Raises StudioError when there is none or it expired."""
    from label_studio_sdk import LabelStudio
    from label_studio_sdk.core.api_error import ApiError

    if not token:
        raise StudioError("no API token for Label Studio", hint="Set GROUNDSWELL_STUDIO_TOKEN", field="token")
    try:
        return LabelStudio(base_url=url, api_key=token)
    except ApiError as error:
        raise StudioError(
            "the personal access token has expired",
            hint="Make a new one in Label Studio",
            field="token",
            status=401,
        ) from error


def token_of(client: LabelStudio) -> str:
    """The token that a client of the SDK was made with."""
    return str(client._client_wrapper._tokens_client._api_key)


def request_headers(client: LabelStudio) -> Mapping[str, str]:
    """Headers of a request as the SDK makes them, its own errors as ours."""
    from label_studio_sdk.core.api_error import ApiError

    try:
        headers: Mapping[str, str] = client._client_wrapper.get_headers()
    except ApiError as error:
        raise StudioError(
            "the personal access token was refused", hint=HINTS[401], field="token", status=error.status_code
        ) from error
    return headers
