"""What commands work on: settings, store and clients of a running installation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_backend.errors import BadInput
from sync.settings import Settings, load_settings
from sync.store.database import Store
from sync.studio.protocol import StudioClient

__all__ = ["Installation", "effective_settings", "open_installation", "open_store"]


@dataclass(frozen=True, slots=True)
class Installation:
    """Settings, store, Label Studio, and the Label Studio of the review projects when it is another one."""

    settings: Settings
    store: Store
    studio: StudioClient
    review_studio: StudioClient | None


def open_store(
    data_dir: Path | None, *, studio_url: str = "", api_key: str = "", create: bool = False
) -> tuple[Settings, Store]:
    """Settings and store, without calling Label Studio.

    Only with ``create`` a store is made where there is none: for commands that may be the first to run.
    Without it, BadInput says that there is no data.
    """
    settings = effective_settings(data_dir, studio_url=studio_url, api_key=api_key)
    if not create:
        _refuse_without_data(settings)
    return settings, Store(settings.database())


def _refuse_without_data(settings: Settings) -> None:
    if settings.database_url.get_secret_value():
        return  # a store elsewhere, which says by itself when it is not there
    if not any((settings.data_dir / name).exists() for name in ("groundswell.db", "secrets.json")):
        raise BadInput(
            f"there is no Groundswell data in {settings.data_dir}",
            field="data_dir",
            hint="Run `groundswell up` and `groundswell init`, or give --data-dir (or GROUNDSWELL_DATA_DIR) "
            "the folder that they used",
        )


def open_installation(
    data_dir: Path | None, *, studio_url: str = "", api_key: str = "", create: bool = False
) -> Installation:
    """Everything a command that talks to Label Studio needs; ``create`` as for ``open_store``."""
    from sync.studio.client import Studio

    settings, store = open_store(data_dir, studio_url=studio_url, api_key=api_key, create=create)
    review = None
    if settings.review_url:
        review = Studio(settings.review_url, settings.review_token.get_secret_value())
    studio = Studio(settings.studio_url, settings.current_studio_token)
    return Installation(settings, store, studio, review)


def effective_settings(data_dir: Path | None, *, studio_url: str = "", api_key: str = "") -> Settings:
    """Settings of a command that talks to a running installation.

    Order: the arguments, the environment, what ``groundswell up`` wrote into its data directory.
    """
    from pydantic import SecretStr

    from sync.local.secrets import BACKEND_USER, load_secrets
    from sync.local.up import read_state

    settings = load_settings(**({} if data_dir is None else {"data_dir": data_dir}))
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
    if studio_url:
        changes["studio_url"] = studio_url.rstrip("/")
    if api_key:
        changes |= {"studio_token": SecretStr(api_key), "studio_token_file": None}
    return settings.model_copy(update=changes)
