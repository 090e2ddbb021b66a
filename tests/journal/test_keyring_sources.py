"""The key-encryption key comes from a file, the environment, systemd or a token; what is wrong with each is said."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.key_source import IN_FOLDER, KeySource, KeySourceWrong, open_key_source, parse_key_source
from gateway.journal.key_changes import KeyChangeRefused, destroy, open_keyring, rewrap, rotate
from gateway.journal.key_token import TokenKek
from gateway.journal.key_wrapping import KeyEncryptionKey, RawKek, WrapRefused
from gateway.journal.keyring import KEYRING_FILE, KeyPurpose, create_keyring, load_keyring
from gateway.journal.port import JournalKeysWrong
from tests.journal.softhsm import PIN, PIN_VARIABLE, make_token, module, uri

KEY = bytes(range(32))
FORMS = {
    "hexadecimal": KEY.hex().encode(),
    "capitals": KEY.hex().upper().encode() + b"\n",
    "base64": base64.b64encode(KEY),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_environment_and_systemd_give_the_key_in_hexadecimal_or_base64(tmp_path: Path, form: str) -> None:
    (tmp_path / "kek").write_bytes(FORMS[form])
    environ = {"KEK": FORMS[form].decode(), "CREDENTIALS_DIRECTORY": str(tmp_path)}
    for text in ("env:KEK", "credential:kek"):
        kek = open_key_source(parse_key_source(text), environ)
        assert kek is not None
        assert kek.check() == RawKek(KEY, "the same").check()
        assert str(parse_key_source(text)) == text
        assert KEY.hex() not in repr(kek) + kek.name


def test_a_credential_may_be_the_bytes_themselves(tmp_path: Path) -> None:
    (tmp_path / "kek").write_bytes(KEY)
    kek = open_key_source(parse_key_source("credential:kek"), {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert kek is not None
    assert kek.check() == RawKek(KEY, "the same").check()


@pytest.mark.parametrize(
    ("text", "environ", "why"),
    [
        ("env:KEK", {}, "no environment variable KEK"),
        ("env:KEK", {"KEK": ""}, "or it is empty"),
        ("env:KEK", {"KEK": KEY.hex()[:-2]}, "does not hold a key: 32 bytes"),
        ("env:KEK", {"KEK": "secret words"}, "does not hold a key: 32 bytes"),
        ("credential:kek", {}, "no CREDENTIALS_DIRECTORY"),
        ("credential:kek", {"CREDENTIALS_DIRECTORY": "/nowhere"}, "cannot be read in /nowhere"),
    ],
)
def test_a_source_that_gives_no_key_says_why_and_shows_nothing_of_it(
    text: str, environ: dict[str, str], why: str
) -> None:
    with pytest.raises(KeySourceWrong, match=why) as wrong:
        open_key_source(parse_key_source(text), environ)
    assert not any(value and len(value) > 9 and value in str(wrong.value) for value in (environ.get("KEK"),))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "none of the four"),
        ("File", "none of the four"),
        ("vault:kek", "none of the four"),
        ("env:", "names no environment variable"),
        ("env:A B", "names no environment variable"),
        ("env:HOLDFAST_KEK", "begins with HOLDFAST_"),
        ("credential:../kek", "names no credential"),
        ("pkcs11:", "not an RFC 7512 URI"),
        ("pkcs11:token=a", "says no object, module-path, pin-source"),
        ("pkcs11:token=a;token=b", "stands once"),
        ("pkcs11:token=a;object=b?module-path=m.so&pin-source=env:P", "not absolute"),
        ("pkcs11:token=a;object=b?module-path=/m.so&pin-source=P", "pin-source that is none of"),
        ("pkcs11:token=a;object=b?module-path=/m.so&pin-source=env:HOLDFAST_P", "begins with HOLDFAST_"),
        ("pkcs11:token=a;object=b?module-path=/m.so&pin-value=7777", "holds the PIN itself"),
        ("pkcs11:token=a;object=b;id=%01?module-path=/m.so&pin-source=env:P", "says id, which is not used"),
    ],
)
def test_a_source_that_cannot_be_understood_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(KeySourceWrong, match=why) as wrong:
        parse_key_source(text)
    assert "7777" not in str(wrong.value)


@given(token=st.text(min_size=1, max_size=20), label=st.text(min_size=1, max_size=20))
def test_a_token_s_source_is_written_as_it_is_read(token: str, label: str) -> None:
    source = KeySource(parse_key_source(uri_of()).kind, "", "/m.so", token, label, "env:PIN")
    assert parse_key_source(str(source)) == source


def uri_of() -> str:
    return "pkcs11:token=a;object=b?module-path=/m.so&pin-source=env:PIN"


def test_the_file_is_found_by_the_keyring_itself() -> None:
    assert open_key_source(IN_FOLDER) is None
    assert parse_key_source("file") is IN_FOLDER


def test_the_environment_s_key_wraps_every_change_of_the_keyring(tmp_path: Path) -> None:
    create_keyring(tmp_path / "keys")
    kek = RawKek(KEY, "the key from env:KEK")
    rewrap(tmp_path / "keys", None, kek, "ann", "why", 1)
    ring = rotate(tmp_path / "keys", kek, KeyPurpose.ACCOUNT, "ann", "why", 2)
    assert open_keyring(tmp_path / "keys", kek) == ring
    with pytest.raises(JournalKeysWrong, match="another is not the key-encryption key"):
        rotate(tmp_path / "keys", RawKek(b"x" * 32, "another"), KeyPurpose.ACCOUNT, "ann", "why", 3)


# --- a token ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One store for this module: the library reads its settings once in the life of a process."""
    before = dict(os.environ)
    os.environ.update(make_token(tmp_path_factory.mktemp("hsm"), "holdfast"))
    yield
    os.environ.clear()
    os.environ.update(before)


def kek_of(label: str, name: str = "holdfast") -> TokenKek:
    kek = open_key_source(parse_key_source(uri(name, label)))
    assert isinstance(kek, TokenKek)
    return kek


@pytest.mark.usefixtures("token")
def test_a_token_s_key_wraps_the_keyring_and_lies_in_no_file_nor_in_this_process(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    before = create_keyring(keys)
    kek: KeyEncryptionKey = kek_of("first")
    with pytest.raises(JournalKeysWrong, match="there is no key 'first'"):
        kek.check()
    kek_of("first").generate()
    rewrap(keys, None, kek, "ann", "into the token", 1)
    assert [path.name for path in keys.iterdir()] == [KEYRING_FILE]
    ring = rotate(keys, kek_of("first"), KeyPurpose.SENSITIVE, "ann", "why", 2)
    assert {number: ring.keys[number] for number in before.keys} == before.keys
    assert load_keyring(keys, kek_of("first")) == ring
    assert 2 not in destroy(keys, kek_of("first"), 2, "ann", "why", 3).keys
    with pytest.raises(JournalKeysWrong, match=r"kek\.key cannot be read"):
        load_keyring(keys)
    with pytest.raises(JournalKeysWrong, match=r"there is a key 'first' .* already; it is never replaced"):
        kek_of("first").generate()


@pytest.mark.usefixtures("token")
def test_a_token_refuses_what_was_bound_to_something_else_or_changed() -> None:
    kek_of("second").generate()
    kek_of("third").generate()
    wrapped = kek_of("second").wrap(KEY, b"key 1")
    assert kek_of("second").unwrap(wrapped, b"key 1") == KEY
    assert KEY not in wrapped
    assert kek_of("second").check() != kek_of("third").check()
    flipped = [wrapped[:n] + bytes([wrapped[n] ^ 1]) + wrapped[n + 1 :] for n in range(0, len(wrapped), 7)]
    for other, bound in [(wrapped, b"key 2"), *((each, b"key 1") for each in flipped), (wrapped[:20], b"key 1")]:
        with pytest.raises(WrapRefused):
            kek_of("second").unwrap(other, bound)
    with pytest.raises(WrapRefused):
        kek_of("third").unwrap(wrapped, b"key 1")


@pytest.mark.usefixtures("token")
def test_what_is_wrong_with_a_token_is_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JournalKeysWrong, match="shows no token 'absent'"):
        kek_of("kek", "absent").check()
    monkeypatch.setenv(PIN_VARIABLE, "0000")
    with pytest.raises(JournalKeysWrong, match="'holdfast' refuses the PIN"):
        kek_of("first").check()
    monkeypatch.delenv(PIN_VARIABLE)
    with pytest.raises(JournalKeysWrong, match=f"no environment variable {PIN_VARIABLE}"):
        kek_of("first").check()
    nowhere = uri("holdfast", "kek").replace(module(), "/nowhere.so")
    monkeypatch.setenv(PIN_VARIABLE, PIN)
    wrong = open_key_source(parse_key_source(nowhere))
    assert wrong is not None
    with pytest.raises(JournalKeysWrong, match=r"cannot be used: .*nowhere\.so"):
        wrong.check()


@pytest.mark.usefixtures("token")
def test_a_key_that_can_be_read_out_of_the_token_is_refused() -> None:
    import pkcs11  # noqa: PLC0415

    opened = pkcs11.lib(module()).get_token(token_label="holdfast")
    with opened.open(rw=True, user_pin=PIN) as session:
        session.generate_key(
            pkcs11.KeyType.AES, 256, label="loose", store=True,
            template={pkcs11.Attribute.SENSITIVE: False, pkcs11.Attribute.EXTRACTABLE: True},
        )  # fmt: skip
    with pytest.raises(JournalKeysWrong, match="can be read out of the token"):
        kek_of("loose").check()


def test_a_keyring_in_a_file_is_not_destroyed_by_a_refused_change(tmp_path: Path) -> None:
    create_keyring(tmp_path / "keys")
    before = (tmp_path / "keys" / KEYRING_FILE).read_bytes()
    with pytest.raises(KeyChangeRefused):
        destroy(tmp_path / "keys", None, 1, "ann", "why", 2)
    assert (tmp_path / "keys" / KEYRING_FILE).read_bytes() == before
