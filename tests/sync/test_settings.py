"""Settings: secrets stay secret, wrong values are named, projects may differ only where allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_backend.errors import BadInput
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
