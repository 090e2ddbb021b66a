"""`holdfast init` makes what is needed, for the owner's eyes only, and never overwrites."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.operations.installing import InstallError, install
from gateway.operations.token import TokenError, read_token
from tests.full_disk import fill_up_at


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_fresh_folder_gets_a_configuration_that_loads_keys_and_a_token(tmp_path: Path) -> None:
    made = install(tmp_path / "shop" / "gateway")
    config = load_config(made.config, {})
    assert config.journal.keys == made.keys
    assert config.operations.token_file == made.token
    assert len(read_token(made.token)) == 64


def test_everything_is_readable_by_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = install(tmp_path / "gateway")
    finally:
        os.umask(before)
    files = [made.config, made.token, *(path for path in made.keys.rglob("*") if path.is_file())]
    assert len(files) >= 3
    assert {oct(mode(path)) for path in files} == {"0o600"}
    assert mode(made.keys) == 0o700


def test_two_installations_share_no_secret(tmp_path: Path) -> None:
    first, second = install(tmp_path / "a"), install(tmp_path / "b")
    assert read_token(first.token) != read_token(second.token)


@pytest.mark.parametrize("name", ["holdfast.toml", "keys", "operations.token"])
def test_whatever_is_there_already_is_named_left_alone_and_nothing_is_made_beside_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(InstallError, match=name):
        install(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_a_link_to_nowhere_counts_as_being_there(tmp_path: Path) -> None:
    (tmp_path / "operations.token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InstallError, match=r"operations\.token"):
        install(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InstallError, match=r"cannot be made|exists already"):
        install(tmp_path / "file" / "gateway")


@pytest.mark.parametrize(
    ("text", "permissions", "told"),
    [
        ("a" * 64, 0o640, "others may read or write it"),
        ("short", 0o600, "is not a token"),
        ("", 0o600, "is not a token"),
        ("with a space" * 5, 0o600, "is not a token"),
        ("é" * 64, 0o600, "cannot be read as plain text"),
    ],
)
def test_a_token_that_is_weak_or_open_to_others_is_refused(
    tmp_path: Path, text: str, permissions: int, told: str
) -> None:
    path = tmp_path / "token"
    path.write_text(text, encoding="utf-8")
    path.chmod(permissions)
    with pytest.raises(TokenError, match=told) as caught:
        read_token(path)
    assert not text or text not in str(caught.value)


def test_a_missing_token_is_told_with_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="`holdfast init` makes one"):
        read_token(tmp_path / "token")


@pytest.mark.parametrize("name", ["kek.key", "keyring.json", "operations.token", "holdfast.toml"])
def test_a_disk_that_is_full_at_any_file_leaves_nothing_and_the_next_try_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fill_up_at(monkeypatch, name)
    with pytest.raises(InstallError, match="No space left on device"):
        install(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert load_config(install(tmp_path).config, {})


@pytest.mark.parametrize("name", ["operations.token", "holdfast.toml"])
def test_a_disk_that_turns_read_only_is_told_with_what_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    unlink = Path.unlink

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        if path.parent == tmp_path:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        unlink(path, missing_ok=missing_ok)

    fill_up_at(monkeypatch, name)
    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(InstallError, match=r"No space left on device; remove before the next try: .*keys.*") as told:
        install(tmp_path)
    assert all(each.name in str(told.value) for each in tmp_path.iterdir())
