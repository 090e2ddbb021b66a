"""Two people for what cannot be undone: requests are durable, end by themselves, and cannot be forged or moved."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.operations.approvals import (
    LIFETIME_MS,
    PENDING_MAX,
    ApprovalRefused,
    Approvals,
    PassphraseNeeded,
    Request,
    approving_text,
    asking_text,
    make_approver_key,
    new_request,
    public_text,
    read_approver_key,
    sign,
)

NOW_MS = 1_800_000_000_000
PEOPLE = {name: Ed25519PrivateKey.generate() for name in ("ann", "bob")}
PUBLIC = {name: key.public_key().public_bytes_raw() for name, key in PEOPLE.items()}


class Clock:
    now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def asked(subject: str = "entry 7 part 1", who: str = "ann", now_ms: int = NOW_MS) -> tuple[Request, str]:
    request = new_request("disclose", subject, who=who, why="case 4711", gateway="g" * 32, now_ms=now_ms)
    return request, sign(PEOPLE[who], asking_text(request))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def approvals(tmp_path: Path, clock: Clock) -> Approvals:
    return Approvals(tmp_path / "requests.json", PUBLIC, clock)


def test_a_request_outlives_the_process_and_can_be_used_once(
    tmp_path: Path, clock: Clock, approvals: Approvals
) -> None:
    request, signature = asked()
    approvals.ask(request, signature)
    later = Approvals(tmp_path / "requests.json", PUBLIC, clock)
    assert later.pending(request.id) == request
    kept = later.approve(request.id, "bob", sign(PEOPLE["bob"], approving_text(request, "bob")))
    assert (kept.approver, kept.approved_ms) == ("bob", NOW_MS)
    assert later.approve(request.id, "bob", kept.approving) == kept, "after a crash the act is done again"
    later.finish(request.id)
    later.finish(request.id)
    with pytest.raises(ApprovalRefused, match="there is no request"):
        approvals.approve(request.id, "bob", kept.approving)
    assert (tmp_path / "requests.json").stat().st_mode & 0o777 == 0o600


def test_the_evidence_lets_anybody_check_both_signatures(approvals: Approvals) -> None:
    request, signature = asked()
    approvals.ask(request, signature)
    kept = approvals.approve(request.id, "bob", sign(PEOPLE["bob"], approving_text(request, "bob")))
    evidence = msgspec.json.decode(msgspec.json.encode(kept.evidence()))
    again = msgspec.convert(evidence["request"], type=Request)
    import base64  # noqa: PLC0415

    PEOPLE["ann"].public_key().verify(base64.b64decode(evidence["asking"]), asking_text(again))
    PEOPLE["bob"].public_key().verify(base64.b64decode(evidence["approving"]), approving_text(again, "bob"))


def test_a_request_ends_after_24_hours(clock: Clock, approvals: Approvals) -> None:
    request, signature = asked()
    approvals.ask(request, signature)
    clock.now_ms += LIFETIME_MS - 1
    assert approvals.waiting()
    clock.now_ms += 1
    assert not approvals.waiting()
    with pytest.raises(ApprovalRefused, match="older than 24 hours"):
        approvals.approve(request.id, "bob", sign(PEOPLE["bob"], approving_text(request, "bob")))


@pytest.mark.parametrize("apart_ms", [-6 * 60_000, 6 * 60_000])
def test_a_request_that_was_signed_at_another_time_is_not_kept_for_later(approvals: Approvals, apart_ms: int) -> None:
    with pytest.raises(ApprovalRefused, match="not of now"):
        approvals.ask(*asked(now_ms=NOW_MS + apart_ms))


@pytest.mark.parametrize("names", [(), ("ann",)])
def test_without_two_approvers_everything_is_refused(tmp_path: Path, clock: Clock, names: tuple[str, ...]) -> None:
    alone = Approvals(tmp_path / "requests.json", {name: PUBLIC[name] for name in names}, clock)
    with pytest.raises(ApprovalRefused, match="needs two people"):
        alone.ask(*asked())
    assert not (tmp_path / "requests.json").exists()


def test_one_key_under_two_names_is_one_person(tmp_path: Path, clock: Clock) -> None:
    twice = Approvals(tmp_path / "requests.json", {"ann": PUBLIC["ann"], "bob": PUBLIC["ann"]}, clock)
    request, signature = asked()
    twice.ask(request, signature)
    with pytest.raises(ApprovalRefused, match="another person"):
        twice.approve(request.id, "bob", sign(PEOPLE["ann"], approving_text(request, "bob")))


def test_whoever_is_no_approver_any_more_cannot_have_asked(tmp_path: Path, clock: Clock, approvals: Approvals) -> None:
    request, signature = asked()
    approvals.ask(request, signature)
    third = Ed25519PrivateKey.generate()
    changed = Approvals(
        tmp_path / "requests.json", {"bob": PUBLIC["bob"], "cleo": third.public_key().public_bytes_raw()}, clock
    )
    with pytest.raises(ApprovalRefused, match="no approver any more"):
        changed.approve(request.id, "bob", sign(PEOPLE["bob"], approving_text(request, "bob")))


FIELDS = ["id", "gateway", "action", "subject", "who", "why", "asked_ms", "expires_ms"]


@given(field=st.sampled_from(FIELDS), more=st.integers(1, 9))
def test_no_word_of_a_request_can_be_changed_under_its_signatures(field: str, more: int) -> None:
    request, _ = asked()
    value = getattr(request, field)
    other = msgspec.structs.replace(request, **{field: value + more if isinstance(value, int) else value + str(more)})
    assert asking_text(other) != asking_text(request)
    assert approving_text(other, "bob") != approving_text(request, "bob")
    assert asking_text(request) != approving_text(request, "ann"), "asking is not approving"


def test_a_request_that_was_edited_on_disk_is_refused(tmp_path: Path, approvals: Approvals) -> None:
    request, signature = asked()
    approvals.ask(request, signature)
    path = tmp_path / "requests.json"
    path.write_text(path.read_text().replace("entry 7 part 1", "entry 8 part 1"))
    edited = approvals.pending(request.id)
    with pytest.raises(ApprovalRefused, match="not signed by the key of ann"):
        approvals.approve(request.id, "bob", sign(PEOPLE["bob"], approving_text(edited, "bob")))


def test_the_same_thing_is_asked_for_once_and_can_be_withdrawn(approvals: Approvals) -> None:
    request, signature = asked()
    approvals.ask(request, signature)
    with pytest.raises(ApprovalRefused, match="asked for already"):
        approvals.ask(*asked(who="bob"))
    assert approvals.withdraw(request.id).request == request
    approvals.ask(*asked(who="bob"))


def test_there_is_a_limit_to_what_waits(approvals: Approvals) -> None:
    for number in range(PENDING_MAX):
        approvals.ask(*asked(f"entry {number} part 1"))
    with pytest.raises(ApprovalRefused, match="wait already"):
        approvals.ask(*asked("entry 999 part 1"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"why": ""}, "why is 1 to 500"),
        ({"why": "x" * 501}, "why is 1 to 500"),
        ({"why": "two\nlines"}, "printable"),
        ({"why": "card 4761739001010010"}, "no card number"),
        ({"subject": ""}, "subject is 1 to 200"),
    ],
)
def test_words_that_cannot_stand_in_the_journal_are_refused(change: dict[str, str], why: str) -> None:
    said = {"subject": "entry 7 part 1", "why": "case 4711", **change}
    with pytest.raises(ApprovalRefused, match=why):
        new_request("disclose", said["subject"], who="ann", why=said["why"], gateway="g", now_ms=NOW_MS)


def test_an_approver_key_is_private_never_overwritten_and_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    plain, locked = tmp_path / "plain.pem", tmp_path / "locked.pem"
    public = make_approver_key(plain)
    assert public_text(read_approver_key(plain)) == public
    with pytest.raises(ApprovalRefused, match="exists already"):
        make_approver_key(plain)
    public = make_approver_key(locked, b"four words are better")
    with pytest.raises(PassphraseNeeded):
        read_approver_key(locked)
    with pytest.raises(PassphraseNeeded):
        read_approver_key(locked, b"wrong")
    assert public_text(read_approver_key(locked, b"four words are better")) == public
    plain.chmod(0o640)
    with pytest.raises(ApprovalRefused, match="chmod 0600"):
        read_approver_key(plain)
    plain.chmod(0o600)
    plain.write_text("no key")
    with pytest.raises(ApprovalRefused, match="not a private key"):
        read_approver_key(plain)
