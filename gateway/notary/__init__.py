"""Signs and publishes the head of the log (INV-7): what the operator cannot take back is what an auditor can rely on.

To read in this order:

    live_log.py     reads the log of the journal that this process writes
    note_file.py    the newest signed checkpoint, kept beside the journal
    signing.py      decides whether the head may be signed, and signs it
    outlet.py       a place that checkpoints go to, on a thread of its own
    folder.py       ... as plain files; syslog_line.py as a line; witness.py to be cosigned
    receipts.py     a till's receipt of one transaction
    notary.py       ties them together, on the event loop's thread
"""
