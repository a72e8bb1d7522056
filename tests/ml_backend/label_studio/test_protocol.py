"""Bodies: what is read of them, what is never touched, and what their errors say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_backend.errors import BadInput
from ml_backend.label_studio.protocol import (
    ProjectKey,
    parse_body,
    parse_predict,
    parse_setup,
    parse_webhook,
    strip_rle,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["rle", "a", '"rle":[1]', "\\", '\\"rle']) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


def is_plain(value: Any) -> bool:
    """A list that holds no text, list or object."""
    return isinstance(value, list) and not any(isinstance(x, str | list | dict) for x in value)


def without_rle(value: Any) -> Any:
    """What is left when plain lists under "rle" are emptied, by another way."""
    if isinstance(value, dict):
        return {k: [] if k == "rle" and is_plain(v) else without_rle(v) for k, v in value.items()}
    return [without_rle(v) for v in value] if isinstance(value, list) else value


@given(json_values, st.sampled_from([None, 1]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_stripping_changes_nothing_but_lists_of_numbers(
    value: Any, indent: int | None, ascii_only: bool
) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    stripped = strip_rle(body)
    assert without_rle(json.loads(stripped)) == without_rle(value)
    assert len(stripped) <= len(body)


def test_strokes_are_gone_before_parsing() -> None:
    body = json.dumps(
        {"a": [{"value": {"format": "rle", "rle": list(range(200)) * 500}}] * 20, "b": 1}
    ).encode()
    assert len(body) > 5_000_000
    assert len(strip_rle(body)) < 2_000
    assert parse_body(body)["b"] == 1


class CountingBytes(bytes):
    """Bytes that count how many of them are searched."""

    searched = 0

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:  # type: ignore[override]
        stop = len(self) if end is None else end
        found = super().find(sub, start, stop)
        self.searched += (stop if found < 0 else found) - start
        return found


@pytest.mark.parametrize("piece", [b'{"rle":[', b'"rle":["",', b'"rle":[1,2,', b'"rle":[],', b'"rle" '])
def test_stripping_looks_at_no_byte_more_than_a_few_times(piece: bytes) -> None:
    body = CountingBytes(piece * 100_000 + b"]" + b'"rle":[1]')
    strip_rle(body)
    assert body.searched <= 6 * len(body)


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"", "empty"), (b"{", "not JSON"), (b"\xff\xfe", "JSON"), (b"[1]", "a list"),
     (b"3", "a number"), (b"null", "missing"),
     (b"[" * 100_000, "not"), (b'{"rle": [', "JSON")],
)  # fmt: skip
def test_bodies_that_are_no_object(body: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        parse_body(body)
    assert caught.value.field == "body"


TASK = {"id": 1, "data": {"image": "/a.png"}, "drafts": [{"secret": 1}], "annotations": [], "predictions": []}
GOOD = {
    "tasks": [TASK],
    "project": "1.1795209803",
    "label_config": "<View/>",
    "params": {"login": None, "context": None},
}


def test_a_batch_request() -> None:
    found = parse_predict(GOOD)
    assert found.project == ProjectKey(1, 1795209803)
    assert found.context is None
    assert found.tasks[0].id == 1
    assert found.tasks[0].data == {"image": "/a.png"}
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"tasks": None}, "tasks", "missing"),
        ({"tasks": {}}, "tasks", "an object"),
        ({"tasks": [1] * 100_001}, "tasks", "at most"),
        ({"project": "x"}, "project", "no project key"),
        ({"project": []}, "project", "^project: a list is no project key"),
        ({"project": "9" * 100_000}, "project", "^project: '9{40}' is no project key"),
        ({"project": None, "label_config": None, "tasks": []}, "project", "missing"),
        ({"label_config": 7}, "label_config", "a number"),
        ({"params": []}, "params", "a list"),
        ({"params": {"context": "x"}}, "params.context", "text"),
        ({"params": {"context": ["x"]}}, "params.context", "a list, expected an object"),
        ({"params": {"context": {"result": []}}, "tasks": [TASK, TASK]}, "tasks", "one task"),
    ],
)
def test_predict_errors_name_the_field(change: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        parse_predict(GOOD | change)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "task",
    [1, None, "x", [], {"id": 1}, {"id": 1, "data": []}, {"id": "5", "data": {}}, {"id": 2**63, "data": {}}],
)
def test_a_broken_task_does_not_break_the_batch(task: Any) -> None:
    found = parse_predict(GOOD | {"tasks": [task, TASK]})
    assert len(found.tasks) == 2
    assert found.tasks[1].problem == ""
    assert found.tasks[0].problem or found.tasks[0].id is None


def test_fields_of_a_newer_label_studio_are_ignored() -> None:
    newer = GOOD | {"organisation": {"id": 1}, "params": {"context": None, "locale": 3}}
    newer["tasks"] = [TASK | {"data": {"image": "/a.png"}, "priority": "high"}]
    assert parse_predict(newer) == parse_predict(GOOD)
    assert parse_setup({"project": "4.1", "schema": "<View/>", "secrets": []}).label_config == "<View/>"


def test_the_project_may_stand_in_the_task() -> None:
    assert parse_predict(GOOD | {"project": None, "tasks": [TASK | {"project": 9}]}).project == ProjectKey(9)


def test_setup() -> None:
    found = parse_setup({"project": "4.1", "schema": "<View/>", "access_token": "secret", "hostname": "x"})
    assert (found.project, found.label_config) == (ProjectKey(4, 1), "<View/>")
    assert "secret" not in repr(found)
    for body, field in (
        ({}, "project"),
        ({"project": "4.1", "schema": 3}, "schema"),
        ({"project": "a"}, "project"),
    ):
        with pytest.raises(BadInput) as caught:
            parse_setup(body)
        assert caught.value.field == field


def test_webhooks() -> None:
    body = b'{"action": "ANNOTATION_CREATED", "annotation": {"result": []}, "project": {"id": 8}}'
    assert parse_webhook(body).project == ProjectKey(8)
    assert parse_webhook(body, project="5").project == ProjectKey(5)
    dated = b'{"action": "X", "project": {"id": 8, "created_at": "2026-11-20T21:23:23.930521Z", "new": []}}'
    assert parse_webhook(dated).project == ProjectKey(8, 1795209803)
    # with the project in the address the body's tail is never read
    assert (
        parse_webhook(b'{"action": "TASKS_CREATED", "tasks": [' + b"broken" * 1000, project="5").action
        == "TASKS_CREATED"
    )
    for raw, field in (
        (b"{}", "action"),
        (b'{"action": 3}', "action"),
        (b'{"action": "X"}', "project.id"),
        (b'{"action": "X", "project": 3}', "project.id"),
        (b'{"action": "X", "project": {"id": "a"}}', "project"),
    ):
        with pytest.raises(BadInput) as caught:
            parse_webhook(raw)
        assert caught.value.field == field


def field_of_error(parse: Callable[[dict[str, Any]], object], body: dict[str, Any]) -> str | None:
    try:
        parse(body)
    except BadInput as error:
        return error.field
    return None


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_any_json_is_parsed_or_refused_by_name(value: Any) -> None:
    for parse in (parse_predict, parse_setup):
        for body in (
            value,
            GOOD | {"tasks": value},
            GOOD | {"params": value},
            {"project": value, "tasks": [value]},
        ):
            if isinstance(body, dict):
                field = field_of_error(parse, body)
                assert field is None or field
