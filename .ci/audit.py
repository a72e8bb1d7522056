"""Known vulnerabilities of the pinned packages, by pip-audit, with an honest count of what was checked.

    python .ci/audit.py [--report-only] constraints.txt constraints-studio.txt

pip-audit asks an online service about each package. Where the service does not know the packages (a
mirror has no advisories), pip-audit itself says "No known vulnerabilities found". So one package is asked
about first, and packages that were not checked are counted. Nothing is installed or changed.

Exit code 1: a vulnerability is known (not with ``--report-only``). Where nothing can be checked: 0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_TIMEOUT_S = 600
_ASK_S = "10"


class NotReached(Exception):
    """The service gave no answer; the text says why, in one line."""


def main() -> int:
    """Audit the files that the command line names; prints one line per finding and one per file."""
    parser = argparse.ArgumentParser(description="known vulnerabilities of pinned packages")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--report-only", action="store_true", help="exit code 0 also with findings")
    parser.add_argument("--program", default=str(Path(sys.executable).with_name("pip-audit")))
    given = parser.parse_args()
    found = 0
    for file in given.files:
        pins = [line for line in file.read_text().splitlines() if "==" in line and not line.startswith("#")]
        try:
            if not checked(ask(given.program, pins[:1])):
                raise NotReached("the service does not know the first package")
            answers = ask(given.program, pins)
        except NotReached as error:
            print(
                f"audit: NOT CHECKED: {file.name} ({error}). Run `make audit` where the internet is reachable"
            )
            continue
        for row in answers:
            for flaw in row.get("vulns", []):
                found += 1
                fixed = ", ".join(flaw.get("fix_versions", [])) or "nothing yet"
                print(f"audit: {row['name']} {row['version']}: {flaw['id']}, mended by {fixed}")
        left = [row["name"] for row in answers if "skip_reason" in row]
        more = f"; not checked: {', '.join(left)}" if left else ""
        print(f"audit: {len(checked(answers))} of {len(pins)} packages of {file.name} were checked{more}")
    if found:
        print(f"audit: {found} known vulnerabilities")
    return 1 if found and not given.report_only else 0


def checked(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The packages that the service knows."""
    return [row for row in answers if "skip_reason" not in row]


def ask(program: str, pins: list[str]) -> list[dict[str, Any]]:
    """What pip-audit says about each pin (``name==version``). Raises NotReached."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins) + "\n")
        file.flush()
        command = [program, "-r", file.name, "--no-deps", "--disable-pip", "-f", "json"]
        command += ["--progress-spinner", "off", "--timeout", _ASK_S]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
        except FileNotFoundError:
            raise NotReached("pip-audit is not installed") from None
        except subprocess.TimeoutExpired:
            raise NotReached(f"no answer within {_TIMEOUT_S} s") from None
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):  # it prints no JSON when the service cannot be reached
        words = [line for line in done.stderr.splitlines() if line.strip()]
        raise NotReached(words[-1][:200] if words else "pip-audit said nothing") from None


if __name__ == "__main__":
    sys.exit(main())
