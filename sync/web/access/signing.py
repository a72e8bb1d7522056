"""Signed texts for links and cookies: keys derived from the installation's signing key, one per purpose."""

from __future__ import annotations

import hashlib
from typing import Any

import itsdangerous

from ml_backend.images.signed_links import signing_keys
from ml_backend.settings import BackendSettings

__all__ = ["Signed"]


class Signed:
    """Signs and reads small JSON values for one purpose.

    Parameters
    ----------
    settings : those of the installation; its older signing keys are still read
    purpose : what is signed for one purpose is refused for any other
    timed : put the time of signing in, so that ``read`` can refuse what is too old. Without, one value is
        always the same text, and an age cannot be asked for
    """

    def __init__(self, settings: BackendSettings, purpose: str, *, timed: bool = True) -> None:
        kind = itsdangerous.URLSafeTimedSerializer if timed else itsdangerous.URLSafeSerializer
        self._serializer: itsdangerous.Serializer[str] = kind(
            signing_keys(settings),
            salt=f"groundswell {purpose}",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def sign(self, value: Any) -> str:
        """The value as text that fits into an address."""
        return str(self._serializer.dumps(value))

    def read(self, text: str, *, max_age_s: float | None = None) -> Any:
        """The value that was signed. Raises ValueError when the text is not ours or too old."""
        try:
            if isinstance(self._serializer, itsdangerous.URLSafeTimedSerializer):
                return self._serializer.loads(text, max_age=None if max_age_s is None else int(max_age_s))
            assert max_age_s is None, "no time was signed"
            return self._serializer.loads(text)
        except itsdangerous.BadData as error:
            raise ValueError("not signed by this installation, or too old") from error
