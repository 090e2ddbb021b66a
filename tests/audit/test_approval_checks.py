"""What needs two people shows in the log when it had one: whoever edits what lies beside the keyring is told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.approval_checks import ApprovalChecks
from gateway.audit.damage import Damage, Findings
from gateway.audit.verifying import Wanted, verify
from gateway.core.lifecycle import EntryKind
from gateway.journal.keyring import KeyPurpose, create_keyring
from gateway.operations.approvals import (
    Approvals,
    approving_text,
    asking_text,
    new_request,
    public_text,
    requests_file,
    sign,
)
from gateway.operations.keys import DESTROY_KEY, Keys, KeySettings
from tests.journal.rig import START_MS, Rig, sqlite_make

KEYRING: Final = "k" * 32
PEOPLE: Final = {name: Ed25519PrivateKey.generate() for name in ("ann", "bob")}
OTHERS: Final = {name: Ed25519PrivateKey.generate() for name in PEOPLE}


def evidence(
    action: str, subject: str, people: dict[str, Ed25519PrivateKey], folder: Path, gateway: str = KEYRING
) -> dict[str, Any]:
    """What a gateway keeps of a request of ann's that bob has approved."""
    folder.mkdir(mode=0o700)
    keys = {name: key.public_key().public_bytes_raw() for name, key in people.items()}
    approvals = Approvals(requests_file(folder), keys, lambda: START_MS)
    request = new_request(action, subject, who="ann", why="over", gateway=gateway, now_ms=START_MS)
    approvals.ask(request, sign(people["ann"], asking_text(request)))
    return approvals.approve(request.id, "bob", sign(people["bob"], approving_text(request, "bob"))).evidence()


def approvers(people: dict[str, Ed25519PrivateKey]) -> str:
    facts = {name: public_text(key) for name, key in people.items()}
    return json.dumps({"number": 1, "what": "approvers", "time_ms": 1, "who": "gateway", "why": "", "facts": facts})


def destroyed(signed: dict[str, Any], key: int = 1, who: str = "ann, bob", purpose: str = "account-epoch") -> str:
    keys = [{"key": key, "purpose": purpose, "check": "00"}]
    return json.dumps(
        {"number": 2, "what": "destroyed", "time_ms": 1, "who": who, "why": "", "keys": keys, "evidence": signed}
    )


def disclosed(signed: dict[str, Any], entry: int = 3) -> str:
    part = {"part": "account", "entry": entry, "transaction": 3}
    return json.dumps({"what": "disclosed", **part, "who": "ann, bob", "evidence": signed})


def found(*told: tuple[EntryKind, str], start: int = 0) -> list[str]:
    findings = Findings(100)
    checks = ApprovalChecks(findings, KEYRING, start)
    for sequence, (kind, detail) in enumerate(told, 1):
        checks.take(sequence, kind, detail)
    checks.finish()
    assert set(findings.counts) <= {Damage.APPROVAL}
    return [each.text for each in findings.kept]


def test_what_two_people_of_the_told_list_have_signed_is_right(tmp_path: Path) -> None:
    key = destroyed(evidence(DESTROY_KEY, "key 1", PEOPLE, tmp_path / "key"))
    shown = disclosed(evidence("disclose", "account part of entry 3, transaction 3", PEOPLE, tmp_path / "shown"))
    itself = destroyed({}, 2, "gateway", "sensitive-epoch")
    listed = (EntryKind.KEY, approvers(PEOPLE))
    assert not found(listed, (EntryKind.KEY, key), (EntryKind.DISCLOSED, shown), (EntryKind.KEY, itself))
    assert not found((EntryKind.KEY, key), start=10)
    assert not found((EntryKind.KEY, key), listed)  # a full disk had held the list up


@pytest.mark.parametrize("sign_with", [PEOPLE, OTHERS], ids=["another act", "other keys"])
def test_other_keys_under_the_same_names_and_signatures_of_another_act_are_told(
    sign_with: dict[str, Ed25519PrivateKey], tmp_path: Path
) -> None:
    listed = (EntryKind.KEY, approvers(PEOPLE))
    key = evidence(DESTROY_KEY, "key 1", sign_with, tmp_path / "key")
    shown = evidence("disclose", "account part of entry 3, transaction 3", sign_with, tmp_path / "shown")
    number = 2 if sign_with is PEOPLE else 1
    assert found(listed, (EntryKind.KEY, destroyed(key, number)))
    assert found(listed, (EntryKind.DISCLOSED, disclosed(shown, 2 + number)))


def test_no_evidence_none_that_fits_and_no_list_are_told(tmp_path: Path) -> None:
    listed = (EntryKind.KEY, approvers(PEOPLE))
    signed = evidence(DESTROY_KEY, "key 1", PEOPLE, tmp_path / "key")
    elsewhere = evidence(DESTROY_KEY, "key 1", PEOPLE, tmp_path / "elsewhere", "another")
    assert "what two people have signed" in found(listed, (EntryKind.KEY, destroyed({})))[0]
    assert found(listed, (EntryKind.KEY, destroyed({}, who="gateway")))  # not of sensitive data
    assert "keyring another" in found(listed, (EntryKind.KEY, destroyed(elsewhere)))[0]
    assert "tells who may approve" in found((EntryKind.KEY, destroyed(signed)))[0]
    assert "by ann and bob" in found(listed, (EntryKind.KEY, destroyed(signed, who="ann, eve")))[0]
    alone = (EntryKind.KEY, approvers(dict.fromkeys(PEOPLE, PEOPLE["ann"])))
    assert "one person" in found(alone, (EntryKind.KEY, destroyed(signed)))[0]
    assert "cannot be read" in found((EntryKind.DISCLOSED, "entry 1 to ann"))[0]


def test_a_list_of_approvers_that_was_edited_so_that_no_entry_tells_of_it_is_found_by_verify(tmp_path: Path) -> None:
    keyring = create_keyring(tmp_path / "keys")
    rig = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()

    def keys_of(people: dict[str, Ed25519PrivateKey]) -> Keys:
        public = {name: key.public_key().public_bytes_raw() for name, key in people.items()}
        approvals = Approvals(requests_file(tmp_path / "keys"), public, lambda: START_MS)
        return Keys(
            KeySettings(tmp_path / "keys"), None, keyring, rig.journal, approvals, lambda: START_MS, lambda _, __: None
        )

    async def destroy(keys: Keys, people: dict[str, Ed25519PrivateKey]) -> None:
        await keys.settle(must=True)
        await keys.rotate(KeyPurpose.ACCOUNT, "ann", "yearly")
        request = new_request(DESTROY_KEY, "key 1", who="ann", why="over", gateway=keyring.name, now_ms=START_MS)
        await keys.ask(request, sign(people["ann"], asking_text(request)))
        await keys.approve(request.id, "bob", sign(people["bob"], approving_text(request, "bob")))

    async def tell_the_first() -> None:
        await keys_of(PEOPLE).settle(must=True)

    rig.run(tell_the_first())
    file = requests_file(tmp_path / "keys")
    content = json.loads(file.read_text())
    content["approvers"] = {name: public_text(key) for name, key in OTHERS.items()}
    file.write_text(json.dumps(content))
    rig.run(destroy(keys_of(OTHERS), OTHERS))
    rig.close()
    verdict = verify(Wanted(journal=tmp_path / "journal.db"), lambda _what, _part: None)
    assert verdict.found == {"not-approved": 1}
    assert "ann's key" in verdict.findings[0].text
