"""Settings of the backend, read once from the environment (``GROUNDSWELL_…``) and from a settings file."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ml_backend.config_file import PREFIX, read_config
from ml_backend.errors import StorageError
from ml_backend.server_address import OptionalServerAddress, ServerAddress

__all__ = ["BackendSettings"]

_PLACEHOLDERS = frozenset({"changeme", "change-me", "change_me", "change me", "placeholder", "your-token"})
_LONG = 8
"""characters from which on nothing but zeros, or nothing but x, is no secret"""


class BackendSettings(BaseSettings):
    """What the serving side needs. ``sync.settings.Settings`` extends it for the worker and CLI."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=None,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # a wrong value may hold a password
    )

    data_dir: Path = Field(default=Path("groundswell-data"), description="all of Groundswell's files")
    studio_url: ServerAddress = Field(
        default="http://127.0.0.1:8080", description="Label Studio as this machine reaches it"
    )
    studio_public_url: OptionalServerAddress = Field(
        default="",
        description="Label Studio as browsers reach it, when this machine reaches it elsewhere: where links "
        "lead. Its pictures in tasks are fetched from studio_url",
    )
    studio_token: SecretStr = Field(
        default=SecretStr(""), description="Label Studio API key: legacy token or personal access token"
    )
    studio_token_file: Path | None = Field(
        default=None,
        description="file that holds the API key instead (the key alone, or the secrets.json of `groundswell "
        "up`); read again when Label Studio refuses the key, so that a changed key needs no restart",
    )
    backend_url: ServerAddress = Field(
        default="http://127.0.0.1:9090", description="the backend as browsers and Label Studio reach it"
    )
    webhook_secret: SecretStr = Field(default=SecretStr(""), description="shared secret of webhook calls")
    signing_key: SecretStr = Field(
        default=SecretStr(""),
        description="key that signs links to crops; empty: made once and kept in data_dir",
    )
    old_signing_keys: SecretStr = Field(
        default=SecretStr(""),
        description="earlier signing keys, separated by commas: links to crops made with them stay valid",
    )
    basic_auth_user: str = Field(
        default="",
        description="user name that Label Studio sends to the backend; empty: it answers nobody (see "
        "open_backend)",
    )
    basic_auth_pass: SecretStr = Field(
        default=SecretStr(""), validate_default=True, description="password that goes with basic_auth_user"
    )
    open_backend: bool = Field(
        default=False,
        description="answer everybody while basic_auth_user is empty; only where nobody but Label Studio can "
        "reach the backend",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="logs as lines of text, or one JSON object a line"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="what is logged at least; the worker logs warnings unless it is set"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, …")
    segmenter: str = Field(
        default="auto",
        description="what answers clicks; auto: the best whose weights are here, else the network that comes "
        "with the package. `groundswell models` lists the choice",
    )
    sam_checkpoint: Path | None = Field(
        default=None, description="SAM checkpoint for segmenters 'sam' and 'sam-onnx'"
    )
    sam_onnx: Path | None = Field(
        default=None,
        description="folder with encoder.onnx and decoder.onnx for segmenter 'sam-onnx'; unset: "
        "sam_checkpoint",
    )
    click_onnx: Path | None = Field(
        default=None,
        description="click network in ONNX for segmenter 'click-onnx'; unset: sam_checkpoint",
    )
    hf_model: str = Field(
        default="",
        description="model of transformers for segmenter 'hf': a folder with config.json, or a name on the "
        "hub that 'groundswell models pull' has fetched",
    )
    hf_revision: str = Field(
        default="", description="branch, tag or commit of hf_model on the hub; empty: its main branch"
    )
    hf_precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="what the image encoder of segmenter 'hf' computes in; bfloat16 takes half the memory, "
        "with masks a little different; it is not faster on every machine",
    )
    embedding_ram_bytes: int = Field(
        default=512 * 1024**2, ge=0, description="click embeddings kept in memory, per process"
    )
    embedding_disk_bytes: int = Field(
        default=20 * 1024**3, ge=0, description="click embeddings kept on disk, in data_dir"
    )
    embedding_half: bool = Field(
        default=False,
        description="keep click embeddings as float16: half the space, masks may differ by single pixels",
    )
    image_ram_bytes: int = Field(default=256 * 1024**2, ge=0, description="decoded images kept in memory")
    image_disk_bytes: int = Field(
        default=20 * 1024**3, ge=0, description="image files kept in data_dir/images"
    )
    max_image_pixels: int = Field(
        default=200_000_000, gt=0, description="width times height of the largest image that is decoded"
    )
    max_image_bytes: int = Field(
        default=256 * 1024**2, gt=0, description="largest image file that is fetched"
    )
    fetch_timeout_s: float = Field(
        default=10.0, gt=0, description="seconds without a byte after which fetching an image is given up"
    )
    fetch_deadline_s: float = Field(
        default=120.0, gt=0, description="seconds that fetching one image may take in all"
    )
    allow_image_hosts: str = Field(
        default="",
        description="comma-separated extra hosts that images may be fetched from, besides Label Studio's "
        "own; with the port if it is not 80 or 443",
    )
    allow_image_networks: str = Field(
        default="",
        description="comma-separated networks of your own, such as 10.0.0.0/8, in which hosts of "
        "allow_image_hosts may lie; no other private address is called",
    )
    allow_image_dirs: str = Field(
        default="", description="colon-separated folders from which file:// and plain paths may be read"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """First what is given in the call, then the environment, then the settings file."""
        fields = settings_cls.model_fields.items()
        secrets = {name for name, field in fields if field.annotation is SecretStr}
        paths = {name for name, field in fields if field.annotation in (Path, Path | None)}
        from_file = InitSettingsSource(settings_cls, read_config(secrets, paths))
        return init_settings, env_settings, from_file

    def image_hosts(self) -> frozenset[tuple[str, int]]:
        """Hosts and ports of ``allow_image_hosts``; without a port the ports of http and https are meant."""
        return _hosts(self.allow_image_hosts)

    def image_networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """Networks of ``allow_image_networks``."""
        return [ipaddress.ip_network(part) for part in _listed(self.allow_image_networks)]

    @field_validator("studio_token", "webhook_secret", "signing_key", "basic_auth_pass")
    @classmethod
    def _no_placeholder(cls, secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value().strip().lower()
        if text in _PLACEHOLDERS or (len(text) >= _LONG and set(text) in ({"0"}, {"x"})):
            raise ValueError("is a placeholder, which anybody can guess")
        return secret

    @field_validator("allow_image_hosts")
    @classmethod
    def _are_hosts(cls, text: str) -> str:
        _hosts(text)
        return text

    @field_validator("allow_image_networks")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        for part in _listed(text):
            ipaddress.ip_network(part)
        return text

    def current_studio_token(self) -> str:
        """The API key as it is now, "" when there is none.

        Raises StorageError when ``studio_token_file`` cannot be read.
        """
        if self.studio_token_file is None:
            return self.studio_token.get_secret_value()
        try:
            text = self.studio_token_file.read_text().strip()
            return str(json.loads(text)["token"]) if text.startswith("{") else text
        except (OSError, ValueError, KeyError) as error:
            raise StorageError(
                f"no API key in {self.studio_token_file}: {type(error).__name__}",
                hint="Write the key into the file, or set GROUNDSWELL_STUDIO_TOKEN instead",
                field="studio_token_file",
            ) from error

    @field_validator("basic_auth_pass")
    @classmethod
    def _with_the_user(cls, password: SecretStr, info: ValidationInfo) -> SecretStr:
        if info.data.get("basic_auth_user") and not password.get_secret_value():
            raise ValueError("is empty, but basic_auth_user is set")
        return password


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _hosts(text: str) -> frozenset[tuple[str, int]]:
    """Hosts with ports. Raises ValueError at what is no host."""
    found: set[tuple[str, int]] = set()
    for entry in _listed(text.lower()):
        parts = urlsplit(f"//{entry}")
        if not parts.hostname or parts.netloc != entry or "@" in entry:
            raise ValueError(f"{entry!r} is no host, such as pictures.example or minio.lan:9000")
        found.update((parts.hostname, port) for port in ([parts.port] if parts.port else (80, 443)))
    return frozenset(found)
