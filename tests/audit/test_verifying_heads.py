"""`audit verify` holds a journal against its own head, the checkpoint beside it, and the one that the auditor kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.audit.damage import Damage
from gateway.audit.heads import HeadRefused, checkpoint_path, read_keys
from gateway.journal.keyring import create_keyring
from protocol.transparency.notes import SignerKey
from protocol.transparency.tree import EMPTY_ROOT
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
from tests.journal.rig import Rig, sqlite_make


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


def rewritten_behind(shop: Scene, size: int) -> None:
    """What somebody without any key does: an old note is put back, and everything behind it is made anew."""
    with Attack(shop) as attack:
        for sequence in (OWED, SIZE):
            attack.edit(sequence, leaf=True, detail="another story")
        attack.make_fit()
        attack.connection.execute("UPDATE head SET tag = randomblob(length(tag))")  # its key is not theirs
    checkpoint_path(shop.journal).write_bytes(signed(size, root_of(shop, size)))


@pytest.mark.parametrize("size", [1, 255, 256, 300, OWED - 1])
def test_an_old_signature_vouches_for_no_more_than_it_covers(shop: Scene, size: int) -> None:
    rewritten_behind(shop, size)
    verdict = shop.verified(checkpoint=None)
    assert verdict.whole, "nothing in the file tells"
    assert (verdict.vouched, verdict.vouched_size) == (True, size)
    assert verdict.summary == (
        f"WHOLE; entries 1 to {size} are vouched for by a signature, {size + 1} to {SIZE} by nothing"
    )
    assert not shop.verified().whole, "who kept a checkpoint is not deceived"
    only(shop.verified(checkpoint=None, keyring=shop.keyring), Damage.HEAD_MISSING)


def test_the_signature_of_an_empty_log_vouches_for_nothing(shop: Scene) -> None:
    rewritten_behind(shop, 0)
    verdict = shop.verified(checkpoint=None)
    assert verdict.whole
    assert (verdict.vouched, verdict.vouched_size) == (False, 0)
    assert verdict.summary == (
        f"WHOLE in itself; the signature or checkpoint that was checked covers none of entries 1 to {SIZE}"
    )
    shop.held.write_bytes(signed(0, root_of(shop, 0)))
    assert not shop.verified(keys=()).vouched, "nor does a kept one"


def test_what_vouches_is_the_newest_that_was_verified_or_kept_and_it_is_named(shop: Scene) -> None:
    shop.held.write_bytes(signed(300, root_of(shop, 300)))
    assert shop.verified().vouched_size == SIZE, "the one beside the journal is newer, and was verified"
    verdict = shop.verified(keys=())
    assert verdict.vouched_size == 300, "it counts only where its signature was verified"
    assert verdict.summary == (
        f"WHOLE; entries 1 to 300 are vouched for by the checkpoint that you hold, 301 to {SIZE} by nothing"
    )
    checkpoint_path(shop.journal).write_bytes(signed(299, root_of(shop, 299)))
    assert shop.verified().summary.startswith("WHOLE; entries 1 to 300 are vouched for by a signature, 301 to ")


def test_a_head_that_does_not_fit_vouches_for_nothing(shop: Scene) -> None:
    checkpoint_path(shop.journal).write_bytes(signed(300, bytes(32)))
    shop.held.write_bytes(signed(SIZE + 1, bytes(32)))
    verdict = shop.verified()
    only(verdict, Damage.REWRITTEN_TAIL, Damage.CUT_TAIL)
    assert (verdict.vouched, verdict.vouched_size) == (False, 0)


def test_from_a_checkpoint_on_it_vouches_for_what_was_before_it_only(shop: Scene) -> None:
    shop.held.write_bytes(signed(300, root_of(shop, 300)))
    verdict = shop.verified(start=300, keys=())
    assert (verdict.whole, verdict.vouched, verdict.vouched_size) == (True, False, 300)
    assert verdict.summary.endswith(f"covers none of entries 301 to {SIZE}")
    checkpoint_path(shop.journal).write_bytes(signed(400, root_of(shop, 400)))
    assert shop.verified(start=300).summary == (
        f"WHOLE; entries 301 to 400 are vouched for by a signature, 401 to {SIZE} by nothing"
    )
    checkpoint_path(shop.journal).write_bytes(signed(SIZE, root_of(shop, SIZE)))
    assert shop.verified(start=SIZE, checkpoint=None).vouched, "all that there is was signed"


def test_an_empty_journal_is_called_so_whatever_was_signed(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "journal.sqlite3", create_keyring(tmp_path / "keys"))
    Rig(sqlite_make(scene.journal, scene.keyring)).open().close()
    checkpoint_path(scene.journal).write_bytes(signed(0, EMPTY_ROOT))
    verdict = scene.verified(checkpoint=None)
    assert (verdict.whole, verdict.vouched) == (True, False)
    assert verdict.summary == "WHOLE, and empty: there is nothing to vouch for"


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
