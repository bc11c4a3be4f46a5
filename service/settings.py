"""Settings of the service: defaults < .env file < environment (`DOPPEL_`, nested by `__`) < secrets folder < flags."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Scope = Literal["read", "write", "admin"]

_SECRETS_FOLDERS = ("/run/secrets",)


class UnsafeSettingsError(ValueError):
    """The settings would expose the service without keys."""


class ApiKey(BaseModel):
    """One accepted key, stored as the sha256 of the key's UTF-8 bytes; `doppel keys new` prints such a record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = ("read",)


class LimitSettings(BaseModel):
    """Bounds on what one request may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: Annotated[int, Field(ge=1024)] = 20 * 2**20
    max_base64_characters: Annotated[int, Field(ge=64)] = 12 * 2**20
    max_pixels: Annotated[int, Field(ge=1)] = 25_000_000
    max_side: Annotated[int, Field(ge=1)] = 8192
    max_faces: Annotated[int, Field(ge=1)] = 64
    max_connections: Annotated[int, Field(ge=1)] = 256
    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    default_timeout_ms: Annotated[int, Field(ge=100, le=60_000)] = 30_000
    rate: str = "600/minute"

    @field_validator("rate")
    @classmethod
    def _rate_is_readable(cls, value: str) -> str:
        from limits import parse

        if value:
            parse(value)
        return value


class QueueSettings(BaseModel):
    """The queue in front of the inference thread; the names are those of Ray Serve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_queue_size: Annotated[int, Field(ge=1)] = 32
    max_batch_size: Annotated[int, Field(ge=1)] = 4
    batch_wait_timeout_s: Annotated[float, Field(ge=0)] = 0.01
    num_corpus_threads: Annotated[int, Field(ge=1)] = 1


class CacheSettings(BaseModel):
    """The cache of verified releases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: Annotated[int, Field(ge=0)] = 64 * 2**20


class Settings(BaseSettings):
    """Everything an operator can set; see docs/operations.md for the table."""

    model_config = SettingsConfigDict(
        env_prefix="DOPPEL_", env_nested_delimiter="__", env_file=".env", extra="ignore", frozen=True
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    insecure: bool = False
    public_docs: bool = False
    api_keys: tuple[ApiKey, ...] = ()
    api_keys_file: Path | None = None
    # binds pseudonyms, attribute noise and provenance to this installation; drawn afresh when absent, and then
    # pseudonyms end with the process
    master_key: Annotated[SecretStr, Field(min_length=16)] | None = None
    # a new epoch unlinks new pseudonyms and draws from those of the old one
    key_epoch: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")] = "1"
    # subject table of the stored pictures, and the key it was made with
    subjects: Path | None = None
    subjects_key: Annotated[SecretStr, Field(min_length=32)] | None = None

    artifacts: Path = Path("artifacts")
    # false-accept rate at which the oracles' privacy thresholds are taken
    false_accept_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data_dir: Path = Path("data/corpus")
    default_collection: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] = "default"
    # payload keys that never leave with a picture, beside those of retrieval.disclosure
    hidden_payload_keys: tuple[str, ...] = ()
    # names cut from every caption and payload text
    hidden_names: tuple[str, ...] = ()

    num_threads: Annotated[int, Field(ge=0)] = 0
    allow_seed: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    ready_check_interval_s: Annotated[float, Field(ge=0)] = 30.0
    ready_check_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    shutdown_timeout_s: Annotated[float, Field(ge=0)] = 30.0

    limits: LimitSettings = LimitSettings()
    queue: QueueSettings = QueueSettings()
    cache: CacheSettings = CacheSettings()

    @model_validator(mode="after")
    def _key_names_are_unique(self) -> Self:
        names = [key.name for key in self.api_keys]
        if len(set(names)) != len(names):
            raise ValueError("api_keys must have unique names")
        return self

    @model_validator(mode="after")
    def _subjects_have_a_key(self) -> Self:
        if self.subjects is not None and self.subjects_key is None:
            raise ValueError("subjects needs subjects_key, the key that the subject table was made with")
        return self

    def all_keys(self) -> tuple[ApiKey, ...]:
        """Give the configured keys and those of `api_keys_file` (a JSON list of the same records).

        Returns:
            Every accepted key.

        Raises:
            UnsafeSettingsError: if the file cannot be read as such a list.
        """
        if self.api_keys_file is None:
            return self.api_keys
        try:
            listed = _KeyFile.model_validate_json('{"keys":' + self.api_keys_file.read_text(encoding="utf-8") + "}")
        except (OSError, ValueError) as error:
            raise UnsafeSettingsError(f"api_keys_file {self.api_keys_file} is not a JSON list of keys") from error
        return (*self.api_keys, *listed.keys)


class _KeyFile(BaseModel):
    keys: tuple[ApiKey, ...]


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from every source.

    Args:
        **overrides: fields given on the command line; None means not given.

    Returns:
        The validated settings. Files of the secrets folder (`DOPPEL_SECRETS_DIR`, else /run/secrets) are named like
        the environment variables, for instance `doppel_api_keys`.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    folders = [os.environ[name] for name in ("DOPPEL_SECRETS_DIR",) if os.environ.get(name)] or list(_SECRETS_FOLDERS)
    existing = [folder for folder in folders if Path(folder).is_dir()]
    folder = existing[0] if existing else None
    return Settings(_secrets_dir=folder, **given)  # type: ignore[call-arg]  # pydantic-settings' own argument


def derive_key(settings: Settings, purpose: str) -> bytes:
    """Derive a key for one purpose from the master key.

    Args:
        settings: the settings.
        purpose: what the key is for; keys of different purposes say nothing about each other.

    Returns:
        32 bytes; random ones where there is no master key.
    """
    if settings.master_key is None:
        return secrets.token_bytes(32)
    return hmac.digest(settings.master_key.get_secret_value().encode(), f"doppel|{purpose}".encode(), "sha256")


def check_exposure(settings: Settings) -> None:
    """Refuse to serve without keys, except on request and on a loopback address.

    Args:
        settings: what the service is about to start with.

    Raises:
        UnsafeSettingsError: if there is no key and `insecure` is off or the address is not a loopback one.
    """
    if settings.insecure:
        if not _is_loopback(settings.host):
            raise UnsafeSettingsError(
                f"insecure=true serves without keys and needs a loopback host, got {settings.host}"
            )
        return
    if not settings.all_keys():
        raise UnsafeSettingsError(
            "no API key is set: make one with `doppel keys new` and give it in DOPPEL_API_KEYS, in a secrets file "
            "or in DOPPEL_API_KEYS_FILE; or start with --insecure on a loopback host"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
