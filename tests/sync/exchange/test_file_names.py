"""File names of exported pictures: relative, distinct, and as the person called them."""

from __future__ import annotations

import pytest

from sync.exchange.file_names import TaskPicture, file_names


def names(*addresses: str, paths: tuple[str, ...] = ()) -> list[str]:
    """Names of pictures with these addresses, in their order."""
    noted = paths or ("",) * len(addresses)
    rows = [TaskPicture(i, path, at) for i, (path, at) in enumerate(zip(noted, addresses, strict=True))]
    return [file_names(rows)[i] for i in range(len(rows))]


def test_the_noted_path_is_taken() -> None:
    found = names(
        "/data/upload/3/0a1b2c3d-a.jpg", "/data/local-files/?d=x/b.jpg", paths=("one/a.jpg", "b.jpg")
    )
    assert found == ["one/a.jpg", "b.jpg"]


def test_served_files_are_named_below_their_common_folder() -> None:
    served = "/data/local-files/?d=sets/cells/"
    assert names(f"{served}a/1.jpg", f"{served}b/1.jpg", f"{served}b/c/2.jpg") == [
        "a/1.jpg",
        "b/1.jpg",
        "b/c/2.jpg",
    ]
    assert names(f"{served}a/1%20x.jpg", f"{served}a/2.jpg") == ["1 x.jpg", "2.jpg"]
    assert names("/label/data/local-files/?d=a/1.jpg") == ["1.jpg"]
    assert names("/mnt/set/a/1.png", "/mnt/set/b/1.png") == ["a/1.png", "b/1.png"]


def test_uploads_lose_their_digits_while_that_stays_distinct() -> None:
    assert names("/data/upload/3/0a1b2c3d-a.jpg", "/data/upload/3/1a1b2c3d-b%20c.jpg") == ["a.jpg", "b c.jpg"]
    same = names(
        "/data/upload/3/0a1b2c3d-a.jpg", "/data/upload/3/1a1b2c3d-a.jpg", "/data/upload/3/2a1b2c3d-b.jpg"
    )
    assert same == ["0a1b2c3d-a.jpg", "1a1b2c3d-a.jpg", "b.jpg"]


def test_web_addresses_lose_host_and_query() -> None:
    signed = "?X-Amz-Signature=abc&X-Amz-Expires=3600"
    assert names(f"https://h/set/a.jpg{signed}", f"https://h/set/b.jpg{signed}") == ["set/a.jpg", "set/b.jpg"]
    assert names("https://one/a.jpg", "https://two/a.jpg", "s3://bucket/k/c.jpg") == [
        "one/a.jpg",
        "two/a.jpg",
        "k/c.jpg",
    ]


def test_a_noted_path_wins_over_one_that_was_worked_out() -> None:
    found = names("/data/upload/3/0a1b2c3d-a.jpg", "/data/upload/3/1a1b2c3d-a.jpg", paths=("a.jpg", ""))
    assert found == ["a.jpg", "1a1b2c3d-a.jpg"]


@pytest.mark.parametrize(
    "address", ["/data/local-files/?d=../../etc/passwd", "https://h/../../x", "data:image/png;base64,AA", ""]
)
def test_every_name_stays_inside_the_folder(address: str) -> None:
    (name,) = names(address)
    assert name
    assert not name.startswith("/")
    assert ".." not in name.split("/")
    assert names("https://h/a.jpg", paths=("../../up/a.jpg",)) == ["up/a.jpg"]


def test_the_same_picture_in_two_tasks_has_two_names() -> None:
    assert names("https://h/a.jpg", "https://h/a.jpg") == ["h/a.jpg", "task-1/h/a.jpg"]
