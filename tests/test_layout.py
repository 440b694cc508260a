"""The repository keeps its own rules: module sizes, documentation, packaging, and the Makefile's word."""

from __future__ import annotations

import ast
import fnmatch
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import settings
from threadpoolctl import threadpool_info

import sparseplan

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "sparseplan").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_documented_and_small(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "a module begins by saying what it is for"
    assert text.count("\n") <= 500, "split it: a module is one thing"


def test_every_data_file_is_packaged() -> None:
    package = ROOT / "sparseplan"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["sparseplan"]
    names = [p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file()]
    data = [n for n in names if not n.endswith((".py", ".pyc")) and not Path(n).name.startswith(".")]
    assert "py.typed" in data
    assert [n for n in data if not any(fnmatch.fnmatch(n, pattern) for pattern in patterns)] == []


def test_every_package_is_one() -> None:
    folders = {path.parent for path in MODULES}
    assert [f for f in folders if not (f / "__init__.py").is_file()] == []


def test_the_change_log_knows_the_version() -> None:
    log = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in log
    major, minor, patch = sparseplan.__version__.split(".")
    assert all(part.isdigit() for part in (major, minor, patch))


def test_linear_algebra_runs_on_one_thread_in_tests() -> None:
    assert all(pool["num_threads"] == 1 for pool in threadpool_info() if pool["user_api"] == "blas")


@pytest.mark.parametrize("profile", ["ci", "dev", "nightly"])
def test_profiles_have_no_deadline(profile: str) -> None:
    assert settings.get_profile(profile).deadline is None
    assert settings.get_profile("ci").derandomize


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs make and a shell")
class TestMake:
    def test_test_runs_every_check(self) -> None:
        said = make("--dry-run", "test").stdout
        for check in ("ruff check", "ruff format --check", "mypy --strict sparseplan", "lint-imports", "pytest -n"):
            assert check in said

    def test_help_is_what_one_gets_by_default(self) -> None:
        result = make()
        assert result.returncode == 0
        assert "make demo" in result.stdout

    def test_an_old_python_is_refused_in_words(self, tmp_path: Path) -> None:
        old = tmp_path / "old-python"
        old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" && exit 0\nexit 1\n')
        old.chmod(0o755)
        result = make("python-version", f"PYTHON={old}")
        assert result.returncode != 0
        assert "needs Python 3.11 or later" in result.stderr
        assert "Python 3.9.1" in result.stderr
