"""Settings as they are for an installation that ``groundswell up`` runs or ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sync.local.secrets import BACKEND_USER, load_secrets
from sync.local.up import read_state
from sync.settings import Settings, load_settings

__all__ = ["effective_settings"]


def effective_settings(data_dir: Path | None, *, studio_url: str = "", api_key: str = "") -> Settings:
    """Settings of a command that talks to a running installation.

    Order: the arguments, the environment, what ``groundswell up`` wrote into its data directory.
    """
    arguments = {"data_dir": data_dir, "studio_url": studio_url or None}
    settings = load_settings(**{name: value for name, value in arguments.items() if value is not None})
    given = settings.model_fields_set
    changes: dict[str, Any] = {"data_dir": settings.data_dir.absolute()}
    state = read_state(settings.data_dir)
    if state is not None:
        changes |= {"studio_url": state.studio_url, "backend_url": state.backend_url}
    if (settings.data_dir / "secrets.json").exists():
        secrets = load_secrets(settings.data_dir)
        changes |= {
            "webhook_secret": SecretStr(secrets.webhook_secret),
            "signing_key": SecretStr(secrets.signing_key),
            "basic_auth_user": BACKEND_USER,
            "basic_auth_pass": SecretStr(secrets.backend_password),
        }
        if state is None or state.embedded:
            changes["studio_token"] = SecretStr(secrets.token)
            if "studio_token" not in given:
                changes["studio_token_file"] = settings.data_dir.absolute() / "secrets.json"
    changes = {name: value for name, value in changes.items() if name == "data_dir" or name not in given}
    if api_key:
        changes |= {"studio_token": SecretStr(api_key), "studio_token_file": None}
    return settings.model_copy(update=changes)
