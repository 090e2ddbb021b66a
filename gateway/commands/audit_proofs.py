"""`holdfast audit prove`, `export` and `receipt`: proofs to take away, and receipts to hold against the log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.audit_group import audit
from gateway.commands.speaking import (
    DEFAULT_CONFIG,
    FAILED,
    WRONG_USAGE,
    AsJson,
    ConfigFile,
    a_file,
    fail,
    load,
    print_json,
)
from gateway.new_file import new_file

if TYPE_CHECKING:
    from gateway.audit.kit_head import SignedHead
    from gateway.config import Config
    from gateway.journal.keyring import Keyring
    from gateway.journal.log_reader import LogReader
    from protocol.transparency.notes import SignerKey, VerifierKey

JournalOption = Annotated[
    Path | None,
    typer.Option("--journal", help="The journal's file; by default the one of the configuration.", metavar="FILE"),
]
KeyOption = Annotated[
    str,
    typer.Option(
        "--verifier-key",
        help="The log's verifier key, or a file that holds it; by default that of the configuration's keys.",
        metavar="KEY",
    ),
]
Sign = Annotated[
    bool, typer.Option("--sign", help="Sign a checkpoint of the journal as it is, with the configuration's keys.")
]


@audit.command("prove")
def prove_command(
    transaction: Annotated[int, typer.Argument(min=1, help="The transaction's id.", metavar="TXN")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the proof, as JSON, into this new file.", metavar="FILE")
    ] = None,
    journal: JournalOption = None,
    config: ConfigFile = None,
    verifier_key: KeyOption = "",
    sign: Sign = False,
    as_json: AsJson = False,
) -> None:
    """Prove that one transaction's entries are in the log, under the newest signed checkpoint (c2sp.org/tlog-proof)."""
    import msgspec  # noqa: PLC0415

    from gateway.audit.proving import prove_transaction, readable  # noqa: PLC0415
    from gateway.operations.progress import Progress  # noqa: PLC0415

    if out is not None and out.exists():
        fail(f"{out} exists already; nothing is ever overwritten", WRONG_USAGE)
    with _opened(journal, config, verifier_key, sign) as (reader, head), Progress(sys.stderr) as progress:
        proof = prove_transaction(reader, head, transaction, progress.tell)
        reader.check_unchanged()
    if out is not None:
        try:
            with new_file(out, 0o644) as file:
                file.write(msgspec.json.format(msgspec.json.encode(proof), indent=1) + b"\n")
        except OSError as error:
            fail(f"{out} cannot be written: {error.strerror}")
    if as_json:
        print_json(proof)
        return
    typer.echo(readable(proof))
    typer.echo(
        f"verified, and written to {out}" if out is not None else "verified; --out FILE or --json gives the proofs"
    )


@audit.command("export")
def export_command(
    folder: Annotated[Path, typer.Argument(help="A folder that is new or empty.", metavar="DIR")],
    journal: JournalOption = None,
    config: ConfigFile = None,
    verifier_key: KeyOption = "",
    sign: Sign = False,
    as_json: AsJson = False,
) -> None:
    """Write the auditor's kit: the whole log as plain files, to be verified by others' programs without a network."""
    from gateway.audit.kit import export_kit  # noqa: PLC0415
    from gateway.operations.progress import Progress  # noqa: PLC0415

    began_s = time.monotonic()
    try:
        with _opened(journal, config, verifier_key, sign) as (reader, head), Progress(sys.stderr) as progress:
            summary = export_kit(reader, head, folder, progress.tell)
    except KeyboardInterrupt:
        fail(f"broken off: {folder} is not complete, and says so; remove it")
    seconds = time.monotonic() - began_s
    if as_json:
        print_json(summary)
        return
    speed = f"{summary.size / seconds:,.0f} entries/s"
    typer.echo(f"{summary.folder}: {summary.size} entries of {summary.origin} under root {summary.root}")
    typer.echo(
        f"{summary.files} files, {summary.bytes} bytes, {summary.key_events} key events; {seconds:.1f} s, {speed}"
    )
    if summary.not_signed_yet:
        typer.echo(f"{summary.not_signed_yet} entries are newer than the checkpoint, and not in it")
    typer.echo(f"SHA-256 of its page: {summary.page_sha256}")
    typer.echo("hand the verifier key over on another way than the folder: " + " ".join(summary.verifier_keys))


@audit.command("receipt")
def receipt_command(
    file: Annotated[
        Path,
        typer.Argument(
            help="A tlog-proof, HF1:INDEX:SIZE:ROOT as it is or as JSON, or what audit prove wrote.", metavar="FILE"
        ),
    ],
    journal: JournalOption = None,
    kit: Annotated[
        Path | None, typer.Option("--kit", help="An exported kit, in place of a journal.", metavar="DIR")
    ] = None,
    config: ConfigFile = None,
    verifier_key: KeyOption = "",
    as_json: AsJson = False,
) -> None:
    """Say if what a terminal's receipt shows is in the log, unchanged, or exactly why not. Exit code 1 if not."""
    from gateway.audit.heads import checkpoint_path  # noqa: PLC0415
    from gateway.audit.kit import KitError  # noqa: PLC0415
    from gateway.audit.kit_head import HeadError, newest_head  # noqa: PLC0415
    from gateway.audit.kit_reading import Kit  # noqa: PLC0415
    from gateway.audit.proving import TransactionProof  # noqa: PLC0415
    from gateway.audit.receipts import (  # noqa: PLC0415
        KEY_OF_KIT,
        JournalLog,
        KitLog,
        ReceiptError,
        check_receipts,
        read_receipt,
        told,
        with_caveat,
    )
    from gateway.journal.log_reader import LogReader  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415

    if kit is not None and (journal is not None or config is not None):
        fail("name a kit, or a journal or its configuration; not both", WRONG_USAGE)
    try:
        receipt = read_receipt(sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes())
        if kit is not None:
            named = _named_keys(verifier_key)
            opened = Kit(kit, named)
            verdicts = check_receipts(receipt, KitLog(opened), named or opened.head.keys)
            if not named:
                verdicts = [with_caveat(verdict, KEY_OF_KIT) for verdict in verdicts]
        else:
            path, keys, _ = _sources(journal, config, verifier_key)
            head = newest_head(path, keys) if keys and checkpoint_path(path).exists() else None
            with LogReader(path) as reader:
                verdicts = check_receipts(receipt, JournalLog(reader, head), keys)
                reader.check_unchanged()
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", WRONG_USAGE)
    except (ReceiptError, HeadError, KitError, JournalError) as error:
        fail(str(error))
    if as_json:
        print_json(verdicts if isinstance(receipt, TransactionProof) else verdicts[0])
    else:
        typer.echo("\n\n".join(map(told, verdicts)))
    if not all(verdict.accepted for verdict in verdicts):
        raise typer.Exit(FAILED)


@contextmanager
def _opened(
    journal: Path | None, config: Path | None, verifier_key: str, sign: bool
) -> Iterator[tuple[LogReader, SignedHead]]:
    """The journal and its newest signed head; what goes wrong with either ends the command with its text."""
    from gateway.audit.kit import KitError  # noqa: PLC0415
    from gateway.audit.kit_head import HeadError, newest_head, signed_head  # noqa: PLC0415
    from gateway.audit.proving import ProvingError  # noqa: PLC0415
    from gateway.journal.log_reader import LogReader  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415

    try:
        path, keys, signers = _sources(journal, config, verifier_key)
        if sign and not signers:
            fail("--sign needs the keys: name their configuration with -c, and no --verifier-key", WRONG_USAGE)
        if not keys:
            fail("name the log's verifier key: --verifier-key KEY, or the configuration with -c", WRONG_USAGE)
        # Before the journal is opened: what is signed later may know of more than the reader sees.
        head = None if sign else newest_head(path, keys)
        with LogReader(path) as reader:
            yield reader, head or signed_head(reader, signers, keys)
    except (HeadError, KitError, ProvingError, JournalError) as error:
        fail(str(error))


def _named_keys(verifier_key: str) -> tuple[VerifierKey, ...]:
    from gateway.audit.kit_head import verifier_keys_of  # noqa: PLC0415

    return verifier_keys_of(verifier_key) if verifier_key else ()


def _sources(
    journal: Path | None, config: Path | None, verifier_key: str
) -> tuple[Path, tuple[VerifierKey, ...], list[SignerKey]]:
    """The journal's path, the keys that its log is believed by, and those that may sign; keys only where named."""
    if config is None and journal is None:
        if not DEFAULT_CONFIG.exists():
            fail("name the journal with --journal, or its configuration with -c", WRONG_USAGE)
        config = DEFAULT_CONFIG
    loaded = load(config) if config is not None else None
    path = a_file(journal or (loaded.journal.path if loaded is not None else Path()))
    if verifier_key or loaded is None:
        return path, _named_keys(verifier_key), []
    from gateway.config.key_source import load_keys  # noqa: PLC0415

    return path, *log_keys(loaded, load_keys(loaded.journal))


def log_keys(config: Config, keyring: Keyring) -> tuple[tuple[VerifierKey, ...], list[SignerKey]]:
    """The keys that an installation's log was ever signed with, newest first, and those that sign now."""
    from gateway.config.audit import origin_of  # noqa: PLC0415
    from gateway.journal.keyring import KeyPurpose  # noqa: PLC0415
    from protocol.transparency.notes import SignerKey  # noqa: PLC0415

    origin = origin_of(config.audit, config.gateway.name)
    ever = [n for n, record in keyring.records.items() if record.purpose is KeyPurpose.LOG and n in keyring.keys]
    keys = tuple(SignerKey(origin, keyring.keys[n]).verifier for n in sorted(ever, reverse=True))
    return keys, [SignerKey(origin, seed) for seed in keyring.log_keys]
