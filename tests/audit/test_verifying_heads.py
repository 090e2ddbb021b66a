"""`audit verify` holds a journal against its own head, the checkpoint beside it, and the one that the auditor kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.audit.damage import Damage
from gateway.audit.heads import HeadRefused, checkpoint_path, read_keys
from protocol.transparency.notes import SignerKey
from tests.audit.scene import (
    OWED,
    SIGNER,
    SIZE,
    Attack,
    Scene,
    kinds,
    only,
    root_of,
    signed,
)


@pytest.mark.parametrize("cut", [1, 3, 200, SIZE - 1])
def test_a_cut_tail_is_told(shop: Scene, cut: int) -> None:
    shop.changed(("DELETE FROM entry WHERE sequence > ?", (SIZE - cut,)))
    assert (SIZE - cut + 1, SIZE) in kinds(shop.verified())[Damage.CUT_TAIL]


def test_a_tail_cut_from_everything_is_told_by_the_checkpoint_that_the_auditor_kept_and_by_nothing_else(
    shop: Scene,
) -> None:
    cut = 3  # the sale that was reversed, in one piece
    with Attack(shop) as attack:
        attack.connection.execute("DELETE FROM entry WHERE sequence > ?", (SIZE - cut,))
        for table in ("tx", "by_key", "by_key_again", "by_batch", "by_batch_again", "by_terminal"):
            attack.connection.execute(f"DELETE FROM {table} WHERE id > ?", (SIZE - cut,))  # noqa: S608
        attack.sign(attack.make_fit())
    assert shop.verified(checkpoint=None).whole
    assert only(shop.verified(), Damage.CUT_TAIL)[Damage.CUT_TAIL] == [(SIZE - cut + 1, SIZE)]


def test_a_tail_rewritten_with_everything_recomputed_and_signed_is_told_by_the_kept_checkpoint_and_by_nothing_else(
    shop: Scene,
) -> None:
    with Attack(shop) as attack:
        for sequence in (OWED,):
            attack.edit(sequence, leaf=True, detail="another story")
        attack.sign(attack.make_fit())
    assert shop.verified(checkpoint=None).whole
    assert only(shop.verified(), Damage.REWRITTEN_TAIL)[Damage.REWRITTEN_TAIL] == [(1, SIZE)]
    shop.held.write_bytes(signed(OWED - 1, root_of(shop, OWED - 1)))
    assert shop.verified().whole, "what was rewritten is behind this checkpoint"


def test_from_a_checkpoint_on_only_what_is_behind_it_is_read(shop: Scene) -> None:
    start = 301
    with Attack(shop) as attack:
        attack.edit(3, leaf=False, detail="before it")
    verdict = shop.verified(start=start)
    assert verdict.whole
    assert (verdict.start, verdict.size, verdict.root) == (start, SIZE, shop.verified().root)
    with Attack(shop) as attack:
        attack.edit(400, leaf=False, detail="behind it")
    assert only(shop.verified(start=start), Damage.EDITED)[Damage.EDITED] == [(400, 400)]
    with pytest.raises(HeadRefused, match="the journal ends"):
        shop.verified(start=SIZE + 1)


def test_a_checkpoint_of_another_key_or_log_or_none_is_refused(shop: Scene, tmp_path: Path) -> None:
    root = root_of(shop, SIZE)
    stranger = SignerKey(SIGNER.name, bytes(32))
    shop.held.write_bytes(signed(SIZE, root, stranger))
    with pytest.raises(HeadRefused, match="signed"):
        shop.verified()
    shop.held.write_bytes(signed(SIZE, root, SignerKey("example.org/other", bytes(range(32)))))
    with pytest.raises(HeadRefused):
        shop.verified()
    shop.held.write_bytes(b"not a note")
    with pytest.raises(HeadRefused):
        shop.verified()
    with pytest.raises(HeadRefused, match="cannot be read"):
        shop.verified(checkpoint=tmp_path / "absent")


def test_a_checkpoint_beside_the_journal_that_its_key_did_not_sign_is_told(shop: Scene) -> None:
    stranger = SignerKey(SIGNER.name, bytes(32))
    checkpoint_path(shop.journal).write_bytes(signed(SIZE, root_of(shop, SIZE), stranger))
    only(shop.verified(), Damage.CHECKPOINT)


@pytest.mark.parametrize("sequence", [SIZE + 1, 1 << 60])
def test_entries_behind_the_journals_own_head_are_told(shop: Scene, sequence: int) -> None:
    shop.changed(("INSERT INTO entry SELECT ?, body, leaf, account FROM entry WHERE sequence = 1", (sequence,)))
    assert only(shop.verified(), Damage.ADDED)[Damage.ADDED] == [(SIZE + 1, sequence)]


@pytest.mark.parametrize("where", ["", " WHERE copy = 2"])
def test_a_head_that_was_removed_is_told(shop: Scene, where: str) -> None:
    shop.changed((f"DELETE FROM head{where}", ()))  # noqa: S608
    only(shop.verified(), Damage.HEAD_MISSING)


def test_a_cut_tail_does_not_pass_for_whole_where_the_head_was_removed_and_no_checkpoint_is_there(shop: Scene) -> None:
    checkpoint_path(shop.journal).unlink()
    shop.changed(
        ("DELETE FROM head", ()),
        ("DELETE FROM entry WHERE sequence > 300", ()),
        ("DELETE FROM tx WHERE id > 300", ()),
        ("DELETE FROM unsettled", ()),
        ("DELETE FROM sensitive", ()),
    )
    assert Damage.HEAD_MISSING in kinds(shop.verified(checkpoint=None, keys=()))


def test_where_nothing_vouches_for_a_whole_journal_it_is_said(shop: Scene) -> None:
    assert shop.verified().summary == "WHOLE: nothing was found"
    assert shop.verified(checkpoint=None).vouched, "the signature of the one beside the journal was verified"
    verdict = shop.verified(checkpoint=None, keys=())
    assert verdict.whole
    assert verdict.summary == "WHOLE in itself; no signature and no kept checkpoint was checked"


def test_a_checkpoint_that_would_not_be_reached_is_refused(shop: Scene) -> None:
    shop.held.write_bytes(signed(10, root_of(shop, 10)))
    assert shop.verified(start=10).whole
    with pytest.raises(HeadRefused, match="behind your checkpoint"):
        shop.verified(start=11)


def test_after_a_rotation_of_the_logs_key_both_checkpoints_are_verified_with_both_keys(shop: Scene) -> None:
    newer = SignerKey(SIGNER.name, b"n" * 32)
    checkpoint_path(shop.journal).write_bytes(signed(SIZE, root_of(shop, SIZE), newer))
    only(shop.verified(), Damage.CHECKPOINT)
    verdict = shop.verified(keys=(SIGNER.verifier, newer.verifier))
    assert verdict.whole
    assert [head.signature_verified for head in verdict.heads] == [True, True, None]
    other = SignerKey("example.org/other", b"n" * 32).verifier.text
    with pytest.raises(HeadRefused, match="of several logs"):
        read_keys([SIGNER.verifier.text, other])
