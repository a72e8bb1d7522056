"""Fetching a model from a hub on this machine: broken connections, wrong content, refusals."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import typer
from typer.testing import CliRunner

from ml_backend.clicks.segmenters import hf_pull
from ml_backend.clicks.segmenters.hf_models import check_folder, find_folder, pulled_folder
from ml_backend.clicks.segmenters.hf_pull import PART, pull_hf_model
from ml_backend.errors import ModelError
from ml_backend.settings import BackendSettings
from sync.commands import models
from tests.ml_backend.clicks.hf_folders import save
from tests.ml_backend.clicks.segmenters.hub_server import COMMIT, HubServer

NAME = "somebody/sam2-tiny"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    there = save("sam2", tmp_path_factory.mktemp("repository"))
    (there / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (there / "sam2.pt").write_bytes(b"a pickle")
    return there


@pytest.fixture
def hub(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer(repository, NAME)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=server.url))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    yield server
    server.shutdown()
    server.server_close()


def ranges(hub: HubServer) -> list[str]:
    """The Range headers of the downloads of the weights."""
    return [
        asked for method, path, asked in hub.asked if method == "GET" and path.endswith("model.safetensors")
    ]


def test_the_command_fetches_what_the_setting_then_finds(hub: HubServer, tmp_path: Path) -> None:
    app = typer.Typer()
    models.register(app)
    data = tmp_path / "data"

    def run(*arguments: str) -> str:
        command = ["models", "pull", NAME, "--data-dir", str(data), *arguments]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    said = run()
    assert f"GROUNDSWELL_HF_MODEL={NAME}" in said
    assert "apache-2.0" in said
    folder = pulled_folder(data, NAME)
    assert find_folder(BackendSettings(data_dir=data, hf_model=NAME)) == folder
    assert not (folder / "sam2.pt").exists()
    assert not folder.with_name(folder.name + PART).exists()
    assert all(COMMIT in path for _, path, _ in hub.asked if "/resolve/" in path)
    versioned = json.loads(run("--revision", "v2", "--json"))
    assert Path(versioned["path"]) == pulled_folder(data, NAME, "v2") != folder
    assert versioned["licence"] == "apache-2.0"
    assert CliRunner().invoke(app, ["models", "pull", "sam_vit_b", "--revision", "v2"]).exit_code == 2
    assert CliRunner().invoke(app, ["models", "pull", NAME, "--mirror", "https://m"]).exit_code == 2


def test_what_is_there_is_not_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    folder = pull_hf_model(NAME, tmp_path / "here")
    before = len(ranges(hub))
    assert pull_hf_model(NAME, tmp_path / "here") == folder
    assert len(ranges(hub)) == before == 1


def test_a_broken_download_goes_on_where_it_broke(
    hub: HubServer, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.break_after, hub.breaks = 60_000, 2
    folder = pull_hf_model(NAME, tmp_path / "here")
    assert (folder / "model.safetensors").read_bytes() == (repository / "model.safetensors").read_bytes()
    begins = [int(asked.removeprefix("bytes=").split("-")[0]) for asked in ranges(hub)[1:]]
    assert len(begins) == 2
    assert 0 < begins[0] < begins[1]


def test_a_download_that_was_given_up_shows_nothing_and_goes_on_later(hub: HubServer, tmp_path: Path) -> None:
    hub.break_after, hub.breaks = 0, 1000
    with pytest.raises(ModelError, match="could not be fetched") as caught:
        pull_hf_model(NAME, tmp_path / "here")
    assert "Run the command again" in caught.value.hint
    assert not (tmp_path / "here").exists()
    hub.breaks = 0
    assert check_folder(pull_hf_model(NAME, tmp_path / "here")) == tmp_path / "here"


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_kill_while_files_are_moved_shows_no_half_model(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """A folder counts from its config.json on, so that comes last; the command mends what was left."""
    with monkeypatch.context() as patched:
        left = iter(range(moved))

        def replace(source: Path, target: Path) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            source.rename(target)

        patched.setattr(hf_pull, "os", SimpleNamespace(replace=replace))
        with pytest.raises(KeyboardInterrupt):
            pull_hf_model(NAME, tmp_path / "here")
    assert not (tmp_path / "here" / "config.json").exists()
    folder = pull_hf_model(NAME, tmp_path / "here")
    wanted = sorted(name for name in hub.listed if not name.endswith(".pt"))
    assert sorted(path.name for path in folder.iterdir()) == wanted


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_damaged_file_does_not_stay(hub: HubServer, tmp_path: Path, file: str) -> None:
    content = hub.listed[file]
    hub.served[file] = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
    with pytest.raises(ModelError, match=rf"{file} of somebody/sam2-tiny came damaged"):
        pull_hf_model(NAME, tmp_path / "here")
    assert not (tmp_path / "here").exists()
    hub.served.clear()
    assert (pull_hf_model(NAME, tmp_path / "here") / file).read_bytes() == content


def test_a_damaged_copy_is_mended(hub: HubServer, tmp_path: Path) -> None:
    weights = pull_hf_model(NAME, tmp_path / "here") / "model.safetensors"
    weights.write_bytes(b"rubbish")
    pull_hf_model(NAME, tmp_path / "here")
    assert weights.read_bytes() == hub.listed["model.safetensors"]


def test_a_file_outside_of_the_folder_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.extra = [{"rfilename": "../../evil.json", "size": 2, "blobId": "0" * 40}]
    with pytest.raises(ModelError, match="outside of its folder"):
        pull_hf_model(NAME, tmp_path / "a" / "here")
    assert not any(path.endswith("evil.json") for _, path, _ in hub.asked)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_kind_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.listed["config.json"] = b'{"model_type": "detr"}'
    with pytest.raises(ModelError, match=r"detection model \(detr\)"):
        pull_hf_model(NAME, tmp_path / "here")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("refuse", "words"),
    [
        ((403, "GatedRepo"), "accepted its licence.*HF_TOKEN"),
        ((404, "RepoNotFound"), "the hub has no somebody/sam2-tiny"),
        ((404, "RevisionNotFound"), "the hub has no somebody/sam2-tiny at revision v9"),
        ((500, "Oops"), "could not be fetched.*Without internet"),
    ],
)
def test_what_the_hub_refuses_is_said(
    hub: HubServer, tmp_path: Path, refuse: tuple[int, str], words: str
) -> None:
    hub.refuse = refuse
    with pytest.raises(ModelError, match=words):
        pull_hf_model(NAME, tmp_path / "here", revision="v9")


def test_a_hub_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` waits for this: a connection that is open and silent must not stop it for ever."""
    monkeypatch.setattr(hf_pull, "_ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nowhere = partial(huggingface_hub.HfApi, endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub, "HfApi", nowhere)
        with pytest.raises(ModelError, match=r"could not be fetched.*timed out"):
            pull_hf_model(NAME, tmp_path / "here")


def test_errors_say_no_password_and_no_signature(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_password = hub.url.replace("http://", "http://me:hunter2@")
    monkeypatch.setattr(huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=with_password))
    hub.refuse = (500, "Oops")
    with pytest.raises(ModelError, match="could not be fetched") as caught:
        pull_hf_model(NAME, tmp_path / "here")
    assert hub.url in caught.value.message
    assert "hunter2" not in str(caught.value)
    assert "?" not in caught.value.message


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = partial(huggingface_hub.HfApi, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "HfApi", nowhere)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ModelError, match=r"could not be fetched.*Without internet"):
        pull_hf_model(NAME, tmp_path / "here")
