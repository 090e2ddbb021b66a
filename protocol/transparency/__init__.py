"""The transparency log that makes the journal provable: published formats, so that no part of it has to be believed.

To read in this order:

    tree.py         the Merkle tree over the entries, RFC 6962 section 2.1, and how it grows
    proofs.py       that an entry is in a tree, and that one tree continues another: RFC 9162 sections 2.1.3 and 2.1.4
    notes.py        texts with Ed25519 signatures, c2sp.org/signed-note v1.0.0
    checkpoints.py  a signed head of the tree, c2sp.org/tlog-checkpoint v1.0.0
    cosignatures.py a witness's signature under a checkpoint, c2sp.org/tlog-cosignature (Ed25519)
    tiles.py        the tree and its entries as plain files, c2sp.org/tlog-tiles v0.1.0
    tlog_proof.py   one entry's proof and the checkpoint in one file, c2sp.org/tlog-proof (draft)
    text.py         base64 and decimal numbers, as all of these write them

A verifier here refuses by an exception: it returns nothing that could be ignored, and no default skips a check.

What these proofs show depends on one thing that no log can show of itself: that the auditor holds a checkpoint from
before. A log that is signed by its own operator can be cut or rewritten where nobody kept a head of it (INV-7).
"""
