"""Settings: secrets stay secret, wrong values are named, projects may differ only where allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_backend.errors import BadInput
from ml_backend.settings import BackendSettings
from sync.settings import PROJECT_OPTIONS, Settings, load_settings


def test_repr_hides_every_secret() -> None:
    settings = Settings(
        studio_token="tok-123",
        webhook_secret="hook-456",
        signing_key="key-789",
        basic_auth_pass="pass-000",
        database_url="postgresql://u:pg-secret@db/x",
    )
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        for secret in ("tok-123", "hook-456", "key-789", "pass-000", "pg-secret"):
            assert secret not in text
    assert settings.database() == "postgresql://u:pg-secret@db/x"


def test_default_database_lies_in_the_data_dir(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).database() == f"sqlite:///{tmp_path / 'groundswell.db'}"


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDSWELL_RETRAIN_AFTER", "often")
    with pytest.raises(BadInput, match=r"settings\.retrain_after.*GROUNDSWELL_RETRAIN_AFTER"):
        load_settings()


def test_project_options_override_and_are_checked(tmp_path: Path) -> None:
    base = Settings(data_dir=tmp_path, studio_token="tok")
    own = base.for_project({"policy": "certified", "question_budget": 9})
    assert (own.policy, own.question_budget, own.data_dir) == ("certified", 9, tmp_path)
    assert own.studio_token.get_secret_value() == "tok"
    assert base.for_project({}) is base
    with pytest.raises(BadInput, match=r"options\.studio_token"):
        base.for_project({"studio_token": "x"})
    with pytest.raises(BadInput, match="question_budget"):
        base.for_project({"question_budget": -1})


def test_crowd_sets_what_is_not_set_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(data_dir=tmp_path).review_overlap_max == 1
    known = Settings(data_dir=tmp_path, gold_share=0.2)
    own = known.for_project({"crowd": True})
    assert (own.review_overlap_max, own.gold_share, own.min_answer_s) == (5, 0.2, 0.6)
    assert own.data_dir == tmp_path
    assert known.for_project({"crowd": True, "min_answer_s": 0.0}).min_answer_s == 0.0
    monkeypatch.setenv("GROUNDSWELL_CROWD", "true")
    monkeypatch.setenv("GROUNDSWELL_REVIEW_OVERLAP_MAX", "3")
    assert (load_settings().review_overlap_max, load_settings().repeat_share) == (3, 0.04)


def test_project_options_exist() -> None:
    assert set(Settings.model_fields) >= PROJECT_OPTIONS


def test_a_user_of_the_backend_without_a_password_is_refused() -> None:
    with pytest.raises(BadInput, match=r"settings\.basic_auth_pass.*is empty, but basic_auth_user is set"):
        load_settings(basic_auth_user="me")
    assert load_settings(basic_auth_user="me", basic_auth_pass="mine").basic_auth_user == "me"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file of an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "groundswell.toml"


def test_a_settings_file_counts_and_the_environment_wins(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        'data_dir = "data"\nretrain_after = 7\nseed = 3\nexperts = [4]\n[policy_options]\npurity = 0.9\n'
    )
    monkeypatch.setenv("GROUNDSWELL_SEED", "5")
    found = load_settings(review_overlap=2)
    assert (found.retrain_after, found.seed, found.experts, found.review_overlap) == (7, 5, [4], 2)
    assert found.policy_options == {"purity": 0.9}
    assert found.data_dir == config.parent / "data"
    assert load_settings(retrain_after=9).retrain_after == 9
    assert found.for_project({"seed": 8}).retrain_after == 7
    assert BackendSettings().data_dir == config.parent / "data"  # keys of the worker are no concern of it
    monkeypatch.setenv("GROUNDSWELL_CONFIG", "")
    assert load_settings().retrain_after == 20


def test_another_settings_file_can_be_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("seed = 3\n")
    other = config.parent / "inner" / "other.toml"
    other.parent.mkdir()
    other.write_text('data_dir = "data"\n')
    monkeypatch.setenv("GROUNDSWELL_CONFIG", str(other))
    assert (load_settings().seed, load_settings().data_dir) == (0, other.parent / "data")
    other.unlink()
    with pytest.raises(BadInput, match=r"GROUNDSWELL_CONFIG: .*other\.toml cannot be read"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("retrain_afer = 7\n", r"groundswell\.toml: retrain_afer: .*Did you mean retrain_after\?"),
        ("colour = 7\n", r"groundswell\.toml: colour: there is no such setting"),
        ('retrain_after = "often"\n', r"groundswell\.toml: retrain_after: Input should be a valid integer"),
        ("seed = \n", r"groundswell\.toml is not valid TOML: .*line 1"),
        ('studio_token = "tok-123"\n', r"groundswell\.toml: studio_token: .*GROUNDSWELL_STUDIO_TOKEN"),
        ('database_url = "postgresql://u:tok-123@h/d"\n', r"GROUNDSWELL_DATABASE_URL"),
    ],
)
def test_what_is_wrong_in_a_settings_file_is_named_with_its_key(
    config: Path, text: str, message: str
) -> None:
    config.write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        load_settings()
    assert "tok-123" not in str(caught.value)


def test_a_wrong_value_names_the_place_that_said_it(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput) as given:
        load_settings(test_fraction=2)
    assert "--test-fraction" in str(given.value)
    assert "GROUNDSWELL_" not in str(given.value)
    with pytest.raises(BadInput) as own:
        Settings().for_project({"min_finished": 1})
    assert own.value.field == "options.min_finished"
    assert "option of the project" in str(own.value)
    assert "GROUNDSWELL_" not in str(own.value)
    config.write_text("min_finished = 1\n")
    with pytest.raises(BadInput) as in_file:
        load_settings()
    assert "groundswell.toml: min_finished" in str(in_file.value)
    monkeypatch.setenv("GROUNDSWELL_MIN_FINISHED", "1")
    with pytest.raises(BadInput, match="environment variable GROUNDSWELL_MIN_FINISHED says so"):
        load_settings()


@pytest.mark.parametrize("text", ["inf", "nan", "-inf", "Infinity"])
def test_a_number_is_finite(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="early_s"):  # JSON, in which it is shown, knows no other
        Settings().for_project({"early_s": text})
    monkeypatch.setenv("GROUNDSWELL_EARLY_S", text)
    with pytest.raises(BadInput, match="early_s"):
        load_settings()


def test_options_of_the_command_line_are_json_or_text() -> None:
    from sync.console import parse_options

    assert parse_options(["a=1", "b=NaN", "c=x", 'd={"e": 2}', "f=-Infinity", "g="]) == {
        "a": 1,
        "b": "NaN",
        "c": "x",
        "d": {"e": 2},
        "f": "-Infinity",
        "g": "",
    }


@pytest.mark.parametrize(
    "address", ["head", "head:", ":6379", "head:65536", f"head:{'9' * 5000}", "ray://head:1"]
)
def test_an_address_of_ray_has_a_host_and_a_port(address: str) -> None:
    assert Settings(ray_address="head:65535").ray_address == "head:65535"
    with pytest.raises(ValueError, match="not host:port"):
        Settings(ray_address=address)


OF_OTHER_FORM = {"artifacts_url", "database_url"}
ADDRESSES = sorted(name for name in Settings.model_fields.keys() - OF_OTHER_FORM if name.endswith("_url"))
WRONG = [
    "localhost:8080",
    "ftp://h",
    "/work",
    "http://",
    "http://h:0",
    "http://h:70000",
    "http://[::1",
    "http://::1:8080",
    "http://a b",
    "http://a..b",
    "http://ana:geheim@h",
    "http://ana:9/geheim@h",
    "http://h?geheim",
    "http://h/#geheim",
]


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_wrong_address_of_a_server_is_named_and_not_repeated(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in WRONG:
        monkeypatch.setenv(f"GROUNDSWELL_{name.upper()}", address)
        with pytest.raises(BadInput, match=f"no address of a server.*GROUNDSWELL_{name.upper()}") as caught:
            load_settings()
        assert "geheim" not in str(caught.value)
        with pytest.raises(ValueError, match=name) as raw:
            Settings()
        assert "geheim" not in str(raw.value), "a backend that does not start logs this"


@pytest.mark.parametrize("name", ADDRESSES)
def test_addresses_of_servers_have_one_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, kept in (
        (" HTTPS://Labels.Example:8443/Desk// ", "https://labels.example:8443/Desk"),
        ("http://[2001:DB8::1]:8080/", "http://[2001:db8::1]:8080"),
    ):
        monkeypatch.setenv(f"GROUNDSWELL_{name.upper()}", given)
        assert getattr(load_settings(), name) == kept
    monkeypatch.setenv(f"GROUNDSWELL_{name.upper()}", "")
    if Settings.model_fields[name].default == "":
        assert getattr(load_settings(), name) == ""
    else:
        with pytest.raises(BadInput, match=f"it is empty.*GROUNDSWELL_{name.upper()}"):
            load_settings()


def test_a_review_server_that_is_the_main_one_is_shown_by_the_same_address() -> None:
    public = "https://labels.example"
    settings = Settings(
        studio_url="http://inside:8080", studio_public_url=public, review_url="http://inside:8080/"
    )
    assert settings.shown_review_url == public
    assert Settings(studio_public_url=public, review_url="https://crowd.example").shown_review_url == (
        "https://crowd.example"
    )
