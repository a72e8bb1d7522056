"""The audit of pinned packages says what it found, and never calls clean what nobody checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """#!{python}
import json, sys
names = [line.split("==") for line in open(sys.argv[sys.argv.index("-r") + 1]).read().split()]
answers = json.loads({answers!r})
if answers is None:
    sys.exit("ERROR: the service cannot be reached")
print("No known vulnerabilities found", file=sys.stderr)
rows = [dict(name=n, version=v) | answers.get(n, {{"vulns": []}}) for n, v in names]
print(json.dumps({{"dependencies": rows}}))
"""
FLAW = {"vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
UNKNOWN = {"skip_reason": "Dependency not found on PyPI and could not be audited"}


def audit(tmp_path: Path, answers: Any, *words: str) -> tuple[int, str]:
    """Exit code and output with a pip-audit that answers so."""
    pins, program = tmp_path / "pins.txt", tmp_path / "pip-audit"
    pins.write_text("# versions\none==1.0\ntwo==2.0\n")
    program.write_text(PROGRAM.format(python=sys.executable, answers=json.dumps(answers)))
    program.chmod(0o755)
    command = [sys.executable, str(ROOT / ".ci/audit.py"), *words, "--program", str(program), str(pins)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_known_vulnerability_is_named_and_fails(tmp_path: Path) -> None:
    code, text = audit(tmp_path, {"two": FLAW})
    assert code == 1
    assert "two 2.0: PYSEC-1, mended by 1.1" in text
    assert "2 of 2 packages" in text
    assert audit(tmp_path, {"two": FLAW}, "--report-only")[0] == 0
    assert audit(tmp_path, {}) == (0, "audit: 2 of 2 packages of pins.txt were checked\n")


@pytest.mark.parametrize("answers", [None, {"one": UNKNOWN, "two": UNKNOWN}])
def test_without_the_service_it_says_that_nothing_was_checked(tmp_path: Path, answers: Any) -> None:
    code, text = audit(tmp_path, answers)
    assert code == 0
    assert text.startswith("audit: NOT CHECKED: pins.txt")
    assert "were checked" not in text


def test_packages_that_the_service_does_not_know_are_counted(tmp_path: Path) -> None:
    code, text = audit(tmp_path, {"two": UNKNOWN})
    assert (code, text) == (0, "audit: 1 of 2 packages of pins.txt were checked; not checked: two\n")
