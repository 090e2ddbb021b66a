"""Safeguards of the journal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Final

from gateway.journal import (
    batch,
    counters,
    draft,
    key_folder,
    lock,
    lookups,
    newest,
    opening,
    reading,
    sealing,
    sqlite,
    upkeep,
)
from tests.safeguards.journal_switches import (
    Unverified,
    any_end,
    any_revision,
    any_sequence,
    broken,
    early_frontier,
    early_indexed,
    kept_in_queue,
    made_with,
    not_scanned,
    open_with,
    opened,
    own_commitment,
    own_digest,
    quarantined_again,
    setting,
    unchecked_place,
    untagged,
    without,
    without_table,
)
from tests.safeguards.kinds import Safeguard
from tests.safeguards.switches import UNLIMITED, Alike, Forgetful, altered, always, nothing, replaced, unlimited

_J: Final = "tests/journal/"
_GAPS: Final = "tests/safeguards/test_gaps_in_journal.py::"
_POWER: Final = "tests/safeguards/test_power.py::"
_SUITE: Final = f"{_J}test_sqlite.py::TestSqliteJournal::"
_SETTINGS: Final = sqlite.SqliteJournalSettings

JOURNAL: Final = (
    Safeguard(
        "a commit is synced before it is acknowledged",
        "INV-1",
        broken("sync of each commit"),
        f"{_POWER}test_what_was_told_outlives_power_cuts",
    ),
    Safeguard(
        "what a kill left unsynced is synced before it is shown",
        "INV-1",
        broken("sync at opening"),
        f"{_POWER}test_what_was_told_outlives_power_cuts",
    ),
    Safeguard(
        "the name of a new key file is synced",
        "INV-1",
        replaced(key_folder, "sync_folder", nothing),
        f"{_GAPS}test_the_names_of_new_key_files_are_synced_before_they_are_used",
    ),
    Safeguard(
        "the AEAD tag of a ciphertext is verified",
        "INV-7",
        replaced(sealing, "AESGCM", Unverified),
        f"{_J}test_sealing.py::test_a_ciphertext_made_under_another_key_fails_its_commitment",
    ),
    Safeguard(
        "a ciphertext is the one that its entry commits to",
        "INV-7",
        open_with(own_digest),
        f"{_J}test_sealing.py::test_a_part_opens_as_it_was_sealed_and_under_no_other_sequence_or_part",
    ),
    Safeguard(
        "a record key is the one that its entry commits to",
        "INV-7",
        open_with(own_commitment),
        f"{_J}test_sealing.py::test_a_ciphertext_made_under_another_key_fails_its_commitment",
    ),
    Safeguard(
        "associated data binds a ciphertext to its sequence and part",
        "INV-8",
        replaced(sealing, "_BOUND", SimpleNamespace(pack=always(b""))),
        f"{_GAPS}test_a_ciphertext_is_bound_to_its_place_beyond_its_key",
    ),
    Safeguard(
        "a row has its tag",
        "INV-7",
        untagged("row"),
        f"{_J}test_rows.py::test_a_row_under_another_id_or_key_is_damaged",
    ),
    Safeguard(
        "an exposure counter has its tag",
        "D21",
        untagged("counter"),
        f"{_J}test_damage.py::test_a_damaged_counter_refuses_what_it_can_no_longer_bound",
    ),
    Safeguard(
        "the journal's head has its tag",
        "INV-7",
        untagged("head"),
        f"{_GAPS}test_a_head_that_was_changed_is_refused",
    ),
    Safeguard(
        "an entry has its leaf hash",
        "INV-7",
        replaced(reading, "leaf_hash", always(Alike())),
        f"{_J}test_damage.py::test_a_damaged_record_is_set_aside_once_and_its_lane_goes_on[entry]",
    ),
    Safeguard(
        "an entry stands under its own sequence",
        "INV-7",
        any_sequence,
        f"{_GAPS}test_an_older_answer_in_the_place_of_a_newer_one_is_not_served",
    ),
    Safeguard(
        "the newest entry is the one that the head names",
        "INV-1",
        any_end,
        f"{_J}test_damage.py::test_a_cut_tail_is_noticed_at_opening",
    ),
    Safeguard(
        "a journal has what its mark says was committed",
        "INV-1",
        replaced(opening, "refuse_what_went_back", opened),
        f"{_GAPS}test_a_journal_that_was_put_back_to_an_earlier_state_is_refused",
    ),
    Safeguard(
        "a hidden row is told by its entry",
        "INV-2",
        replaced(reading.RecordReader, "row_created", reading.RecordReader.row),
        f"{_J}test_damage.py::test_a_damaged_record_is_set_aside_once_and_its_lane_goes_on[row missing]",
    ),
    Safeguard(
        "an entry of the queue is checked against its row",
        "INV-4",
        replaced(reading.RecordReader, "_queued_row", unchecked_place),
        f"{_J}test_damage.py::test_an_entry_of_the_queue_with_a_wrong_lane_is_put_right",
    ),
    Safeguard(
        "a hidden transaction in doubt is searched for",
        "INV-3",
        replaced(sqlite, "scan_in_doubt", not_scanned),
        f"{_J}test_damage.py::test_an_in_doubt_transaction_that_its_table_has_lost_is_still_found",
    ),
    Safeguard(
        "lookups of one hop see one state",
        "INV-6",
        replaced(lookups, "snapshot", lambda _, reads: [read() for read in reads]),
        f"{_GAPS}test_a_commit_between_two_lookups_of_one_hop_is_seen_by_neither",
    ),
    Safeguard(
        "a second gateway is kept away",
        "INV-2",
        altered(lock, "fcntl", flock=nothing),
        f"{_J}test_sqlite.py::test_a_second_journal_on_the_same_file_is_refused_until_the_first_is_closed",
    ),
    Safeguard(
        "a lock file that was removed is noticed",
        "INV-2",
        replaced(lock.JournalLock, "refusal", always("")),
        f"{_GAPS}test_once_its_lock_file_is_removed_or_replaced_it_takes_nothing_new",
    ),
    Safeguard(
        "another program's file is left alone",
        "—",
        replaced(opening, "refuse_foreign_file", nothing),
        f"{_J}test_sqlite.py::test_a_file_that_is_no_journal_is_refused_and_left_alone",
    ),
    Safeguard(
        "a key is unique within its batch",
        "INV-2",
        made_with(draft.Draft, fresh=Forgetful),
        f"{_SUITE}test_of_two_writes_of_one_key_in_one_commit_the_first_wins",
    ),
    Safeguard(
        "a key is looked for among the newest",
        "INV-2",
        made_with(newest.Generation, keys=Forgetful),
        f"{_SUITE}test_a_key_that_exists_changes_nothing_and_gives_the_stored_outcome",
    ),
    Safeguard(
        "a key is looked for in the first table",
        "INV-2",
        without_table("by_key"),
        f"{_J}test_damage.py::test_a_key_that_one_lookup_table_has_lost_is_still_no_new_transaction",
    ),
    Safeguard(
        "a key is looked for in the second table",
        "INV-2",
        without_table("by_key_again"),
        f"{_J}test_damage.py::test_a_key_that_one_lookup_table_has_lost_is_still_no_new_transaction",
    ),
    Safeguard(
        "a batch is looked for in the second table",
        "INV-7",
        without_table("by_batch_again"),
        f"{_J}test_listings.py::test_a_batch_that_one_lookup_table_has_lost_is_still_whole",
    ),
    Safeguard(
        "an update follows the revision that is stored",
        "INV-2",
        any_revision,
        f"{_SUITE}test_an_update_of_another_revision_stops_the_journal_and_writes_nothing",
    ),
    Safeguard(
        "an update leaves the payment as it was",
        "INV-5",
        replaced(draft, "same_payment", always(value=True)),
        f"{_SUITE}test_an_update_that_would_change_an_acknowledged_amount_is_not_written",
    ),
    Safeguard(
        "the tree's frontier moves only after COMMIT",
        "INV-7",
        early_frontier,
        f"{_J}test_log_tree.py::test_the_head_of_the_log_is_that_of_rfc_6962_after_any_history",
    ),
    Safeguard(
        "indexed does not advance before the last slice",
        "INV-2",
        early_indexed,
        f"{_J}test_slices.py::test_a_kill_between_any_two_slices_loses_no_key_no_owed_row_and_no_counter",
    ),
    Safeguard(
        "what leaves memory goes on when nobody writes",
        "—",
        replaced(upkeep.Upkeep, "_look_later", nothing),
        f"{_J}test_slices.py::"
        "test_once_nobody_writes_what_is_leaving_is_put_away_and_a_long_log_is_moved_into_the_database",
    ),
    Safeguard(
        "what a stand-in reserves is durable",
        "D21",
        replaced(counters.Counters, "flush", nothing),
        f"{_J}test_crash.py::test_keys_and_counters_that_were_only_logged_still_bound_and_match_after_a_kill",
    ),
    Safeguard(
        "a limit counts what its own commit reserves",
        "D21",
        replaced(counters.Counters, "reserve", nothing),
        f"{_SUITE}test_limits_count_what_the_same_commit_has_reserved",
    ),
    Safeguard(
        "room is kept for outcomes on the disk",
        "INV-9",
        unlimited(_SETTINGS, min_free_bytes=0),
        f"{_J}test_sqlite.py::test_too_little_free_disk_refuses_new_transactions_before_they_are_acknowledged",
    ),
    Safeguard(
        "a journal has a largest size",
        "INV-9",
        unlimited(_SETTINGS, limit_bytes=UNLIMITED),
        f"{_J}test_sqlite.py::test_new_transactions_are_refused_over_the_limit_while_outcomes_go_through",
    ),
    Safeguard(
        "a reversal is taken however full it is",
        "D15",
        replaced(batch, "_NEEDS", dict[object, object]()),
        f"{_J}test_sqlite.py::test_new_transactions_are_refused_over_the_limit_while_outcomes_go_through",
    ),
    Safeguard(
        "what is damaged is reported once",
        "INV-7",
        quarantined_again,
        f"{_J}test_damage.py::test_a_damaged_record_is_set_aside_once_and_its_lane_goes_on",
    ),
    Safeguard(
        "what is damaged leaves the queue",
        "INV-4",
        kept_in_queue,
        f"{_GAPS}test_a_damaged_record_leaves_the_queue_for_good",
    ),
    Safeguard(
        "track and PIN go with the final state",
        "INV-8",
        without("DELETE FROM sensitive"),
        f"{_GAPS}test_what_is_sensitive_is_gone_from_the_files_once_a_transaction_is_final",
    ),
    Safeguard(
        "what is removed is overwritten",
        "INV-8",
        setting("secure_delete = ON", "secure_delete = OFF"),
        f"{_GAPS}test_what_is_sensitive_is_gone_from_the_files_once_a_transaction_is_final",
    ),
    Safeguard(
        "journal files are their owner's",
        "INV-8",
        replaced(opening, "make_private", nothing),
        f"{_GAPS}test_every_file_of_a_journal_is_its_owners_whatever_the_umask",
    ),
    Safeguard(
        "key files that others may read are refused",
        "INV-8",
        replaced(key_folder, "refuse_open_to_others", nothing),
        f"{_J}test_keyring.py::test_a_key_file_that_others_can_reach_is_refused_by_name",
    ),
)
