"""One TLS context for all clients, another one for another bundle of certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi
import pytest

from ml_backend.tls import tls_context


def test_clients_share_a_context_that_checks_certificates() -> None:
    context = tls_context()
    assert context is tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509_ca"] > 50


def test_another_bundle_gives_another_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = tls_context()
    end = "-----END CERTIFICATE-----"
    bundle = tmp_path / "ours.pem"
    bundle.write_text(Path(certifi.where()).read_text().split(end)[0] + end)
    with monkeypatch.context() as ours:
        ours.setenv("SSL_CERT_FILE", str(bundle))
        assert tls_context().cert_store_stats()["x509_ca"] == 1
    assert tls_context() is usual
