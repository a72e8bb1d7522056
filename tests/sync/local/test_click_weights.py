"""What `up` fetches: asked once, from servers on this machine that break off and damage files."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from ml_backend.clicks.segmenters.sam_checkpoints import CHECKPOINTS
from ml_backend.clicks.serving.auto_choice import Fetchable, choose
from sync.local import click_weights
from sync.local.click_weights import can_ask, offer_weights
from sync.settings import Settings
from tests.ml_backend.clicks.hf_folders import save
from tests.ml_backend.clicks.segmenters.hub_server import HubServer
from tests.ml_backend.clicks.segmenters.test_sam_checkpoints import CONTENT, Server, checkpoint
from tests.ml_backend.clicks.segmenters.test_sam_checkpoints import server as server

NAME = "somebody/sam2-tiny"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("sam2", tmp_path_factory.mktemp("repository"))


@pytest.fixture
def hub(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer(repository, NAME)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=server.url))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    monkeypatch.setattr(click_weights, "fetchable", lambda: Fetchable(NAME, 156_000_000, "Apache-2.0"))
    yield server
    server.shutdown()
    server.server_close()


class Person:
    """Answers, and remembers what was asked and said."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.heard: list[str] = []

    def ask(self, question: str) -> bool:
        self.asked.append(question)
        return self.answer


def offer(settings: Settings, person: Person, *, yes: bool = False, terminal: bool = True) -> None:
    offer_weights(settings, yes=yes, ask=person.ask if terminal else None, say=person.heard.append)


def settings(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(data_dir=tmp_path, device="cpu", **changes)


def test_a_yes_fetches_what_auto_then_takes(hub: HubServer, tmp_path: Path) -> None:
    person = Person(True)
    offer(settings(tmp_path), person)
    (question,) = person.asked
    for words in (NAME, "156 MB", "Apache-2.0", "asked once"):
        assert words in question
    assert choose(settings(tmp_path)).best.segmenter == "hf"
    offer(settings(tmp_path), person, yes=True)
    assert len(person.asked) == 1  # weights are here now
    assert len(person.heard) == 2


def test_a_no_is_remembered(hub: HubServer, tmp_path: Path) -> None:
    person = Person(False)
    for _ in range(2):
        offer(settings(tmp_path), person)
    assert len(person.asked) == 1
    assert hub.asked == []
    assert person.heard == []
    offer(settings(tmp_path), person, yes=True)
    assert len(person.asked) == 1
    assert choose(settings(tmp_path)).best.segmenter == "hf"


def test_nobody_to_ask_means_no_download(hub: HubServer, tmp_path: Path) -> None:
    person = Person(True)
    offer(settings(tmp_path), person, terminal=False)
    offer(settings(tmp_path, segmenter="classical"), person, yes=True)
    offer(settings(tmp_path, click_onnx=tmp_path / "net.onnx"), person, yes=True)
    assert (person.asked, person.heard, hub.asked) == ([], [], [])
    assert list(tmp_path.iterdir()) == []
    assert not can_ask()  # no test has a terminal


def test_a_download_that_fails_is_said_and_tried_at_the_next_start(hub: HubServer, tmp_path: Path) -> None:
    person = Person(True)
    hub.break_after, hub.breaks = 0, 1000
    offer(settings(tmp_path), person)
    assert any("not fetched" in line and "Run the command again" in line for line in person.heard)
    assert "goes on without" in person.heard[-1]
    assert choose(settings(tmp_path)).best.segmenter == "shipped"
    hub.breaks = 0
    offer(settings(tmp_path), person, terminal=False)  # the answer counts still
    assert len(person.asked) == 1
    assert choose(settings(tmp_path)).best.segmenter == "hf"


def test_damaged_weights_are_never_used(hub: HubServer, tmp_path: Path) -> None:
    person = Person(True)
    content = hub.listed["model.safetensors"]
    hub.served["model.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    offer(settings(tmp_path), person)
    assert any("came damaged" in line for line in person.heard)
    assert choose(settings(tmp_path)).best.segmenter == "shipped"


def test_a_checkpoint_with_a_known_hash(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click_weights, "fetchable", lambda: Fetchable("m", len(CONTENT), "Apache-2.0"))
    monkeypatch.setitem(CHECKPOINTS, "m", checkpoint(server))
    person = Person(True)
    server.content = CONTENT[:-1] + b"?"
    offer(settings(tmp_path), person)
    assert any("came with the hash" in line for line in person.heard)
    server.content, server.cut = CONTENT, 3_000_000
    offer(settings(tmp_path), person)
    assert (tmp_path / "checkpoints" / "model.pth").read_bytes() == CONTENT
    assert any(asked.startswith("bytes=") for asked in server.asked)
    assert hashlib.sha256(CONTENT).hexdigest() == CHECKPOINTS["m"].sha256
    assert "5 of 5 MB" in person.heard


def test_a_file_where_the_folder_of_weights_should_be_stops_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").write_text("a note")
    monkeypatch.setattr(click_weights, "fetchable", lambda: Fetchable("sam_vit_b", 1, "Apache-2.0"))
    person = Person(True)
    offer(settings(tmp_path), person, yes=True)
    assert any("not fetched" in line and "checkpoints" in line for line in person.heard)
