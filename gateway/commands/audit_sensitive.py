"""`holdfast audit shred-check`, `disclose` and `open-disclosure`: card data that must be gone, and that may be seen."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands.audit_group import audit
from gateway.commands.person import private_key_in
from gateway.commands.running import ask
from gateway.commands.speaking import (
    DEFAULT_CONFIG,
    FAILED,
    WRONG_USAGE,
    Approver,
    ApproverKey,
    AsJson,
    ConfigFile,
    fail,
    load,
    print_json,
)
from gateway.new_file import new_file

if TYPE_CHECKING:
    from gateway.audit.canaries import Canary
    from gateway.audit.disclosing import Disclosure
    from gateway.audit.shredding import Searched
    from gateway.config import Config

_SHOWN_MAX = 40


@audit.command("shred-check")
def shred_check_command(
    canaries: Annotated[
        list[str] | None,
        typer.Argument(help="What to look for. Better from a file: arguments are seen by all.", metavar="[CANARY]..."),
    ] = None,
    canary_file: Annotated[
        Path | None, typer.Option("--canary-file", help="Canaries, one in a line; - is standard input.", metavar="FILE")
    ] = None,
    config: ConfigFile = None,
    also: Annotated[
        list[Path] | None,
        typer.Option("--also", help="A log, backup, kit or folder to search as well; may be repeated.", metavar="PATH"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search the journal's files, and whatever is named, for planted card data in every encoding. Exit 1 if any is."""
    from gateway.audit.shredding import Search, files_under  # noqa: PLC0415
    from gateway.core_dumps import refuse_core_dumps  # noqa: PLC0415
    from gateway.operations.progress import Progress  # noqa: PLC0415

    refuse_core_dumps()
    wanted = _canaries(canaries or [], canary_file)
    paths = list(also or [])
    if config is not None or not paths:
        paths = [*_own_paths(load(config or DEFAULT_CONFIG)), *paths]
    began_s = time.monotonic()
    try:
        files = list(files_under(paths))
        with Progress(sys.stderr) as progress:
            result = Search(wanted, progress.tell).run(files)
    except OSError as error:
        fail(f"{error.filename or 'a file'} cannot be searched: {error.strerror}", WRONG_USAGE)
    except KeyboardInterrupt:
        fail("broken off: nothing is said about what was not searched")
    if as_json:
        print_json(_as_json(wanted, result))
    else:
        _tell(wanted, result, time.monotonic() - began_s)
    if not result.clean:
        raise typer.Exit(FAILED)


def _canaries(given: list[str], file: Path | None) -> list[Canary]:
    from gateway.audit.canaries import CanaryWrong, canaries_of  # noqa: PLC0415

    lines = list(given)
    if given:
        typer.echo(
            "holdfast: canaries given as arguments are seen by everybody in `ps`, and stay in the shell's history; "
            "--canary-file keeps them to yourself",
            err=True,
        )
    try:
        if file is not None:
            lines += (sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")).splitlines()
        elif not given and not sys.stdin.isatty():
            lines = sys.stdin.read().splitlines()
        return canaries_of(lines)
    except (OSError, UnicodeDecodeError):
        fail(f"{file or 'standard input'} cannot be read as text with a canary in each line", WRONG_USAGE)
    except CanaryWrong as wrong:
        fail(str(wrong), WRONG_USAGE)


def _own_paths(config: Config) -> list[Path]:
    """The database, all that lies beside it under its name (log, mark, checkpoint, damaged logs), what is published."""
    journal = config.journal.path
    paths = sorted([*journal.parent.glob(f"{journal.name}*"), *journal.parent.glob(f".{journal.name}*")])
    if not journal.exists():
        fail(f"{journal} does not exist: nothing was searched", WRONG_USAGE)
    published = config.audit.publish_folder
    return [*paths, published] if published is not None and published.exists() else paths


def _as_json(canaries: list[Canary], result: Searched) -> dict[str, Any]:
    from dataclasses import asdict  # noqa: PLC0415

    return {
        "clean": result.clean,
        "files": result.files,
        "archive_members": result.members,
        "bytes": result.searched_bytes,
        "canaries": [
            {"canary": each.number, "characters": each.characters, "forms": len(each.forms), "left_out": each.left_out}
            for each in canaries
        ],
        "found": [asdict(place) for place in result.found],
        "found_count": result.found_count,
        "not_searched": [{"where": where, "why": why} for where, why in result.not_searched],
    }


def _tell(canaries: list[Canary], result: Searched, seconds: float) -> None:
    for place in result.found[:_SHOWN_MAX]:
        where = f"{place.file}: {place.member}" if place.member else place.file
        at = f"at byte {place.offset:,}" if place.offset >= 0 else "in its name"
        typer.echo(f"FOUND canary {place.canary} ({place.characters} characters) as {place.encoding}: {where} {at}")
    if result.found_count > _SHOWN_MAX:
        typer.echo(f"... and {result.found_count - _SHOWN_MAX:,} more; --json shows up to a thousand")
    for where, why in result.not_searched:
        typer.echo(f"NOT SEARCHED {where}: {why}")
    for each in canaries:
        if each.left_out:
            typer.echo(
                f"canary {each.number} has {each.characters} characters: too few to look for it as "
                f"{', '.join(each.left_out)}"
            )
    speed = result.searched_bytes / 2**20 / max(seconds, 0.001)
    archives = f" and {result.members} members of archives" if result.members else ""
    typer.echo(
        f"{result.files} files{archives}, {result.searched_bytes:,} bytes, {len(canaries)} canaries in "
        f"{sum(len(each.forms) for each in canaries)} forms; {seconds:.1f} s, {speed:.0f} MiB/s"
    )
    typer.echo("clean: no canary was found" if result.clean else "NOT CLEAN")


@audit.command("disclose")
def disclose_command(
    transaction: Annotated[int, typer.Argument(min=1, help="The transaction's id.", metavar="TXN")],
    part: Annotated[str, typer.Option("--part", help="account or sensitive.", metavar="PART")],
    who: Approver,
    private_key: ApproverKey,
    why: Annotated[str, typer.Option("--why", help="Why; kept in the journal. Of who asks.")] = "",
    approve: Annotated[
        str, typer.Option("--approve", help="The request that you approve, as the second person.", metavar="ID")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="New file for the disclosure; with --approve.", metavar="FILE")
    ] = None,
    entry: Annotated[
        int, typer.Option("--entry", min=0, help="An entry of it other than its first, such as its answer's.")
    ] = 0,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show an auditor one part of one record: one asks, another approves, an entry tells of it, then the key leaves."""
    from gateway.audit.disclosing import PARTS  # noqa: PLC0415
    from gateway.core_dumps import refuse_core_dumps  # noqa: PLC0415

    refuse_core_dumps()
    if part not in PARTS:
        fail(f"--part is one of {', '.join(PARTS)}", WRONG_USAGE)
    if bool(approve) != (out is not None) or bool(approve) == bool(why):
        fail("who asks gives --why; who approves gives --approve ID and --out FILE", WRONG_USAGE)
    loaded = load(config or DEFAULT_CONFIG)
    if out is None:
        _ask_to_disclose(loaded, transaction, entry or transaction, part, who, why, private_key, as_json=as_json)
    else:
        _disclose(loaded, transaction, entry or transaction, part, who, approve, private_key, out, as_json=as_json)


def _ask_to_disclose(
    config: Config, transaction: int, sequence: int, part: str, who: str, why: str, key: Path, *, as_json: bool
) -> None:
    from gateway.clock import SystemClock  # noqa: PLC0415
    from gateway.config.key_source import load_keys  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415
    from gateway.operations.approvals import ApprovalRefused, asking_text, new_request, sign  # noqa: PLC0415
    from gateway.operations.disclosures import DISCLOSE, subject_of  # noqa: PLC0415
    from gateway.operations.keys_offline import configured_approvals  # noqa: PLC0415

    _made(config, transaction, sequence, part)  # so that nobody is asked to approve what cannot be
    clock = SystemClock()
    try:
        request = new_request(
            DISCLOSE, subject_of(part, sequence, transaction), who=who, why=why,
            gateway=load_keys(config.journal).name, now_ms=clock.utc_ms(),
        )  # fmt: skip
        signature = sign(private_key_in(key), asking_text(request))
        configured_approvals(config, clock.utc_ms).ask(request, signature)
    except (ApprovalRefused, JournalError) as error:
        fail(str(error))
    if as_json:
        print_json({"request": request.id, "subject": request.subject, "expires_ms": request.expires_ms})
        return
    typer.echo(
        f"request {request.id}: another person approves it within 24 hours with `holdfast audit disclose {transaction} "
        f"--part {part}{f' --entry {sequence}' if sequence != transaction else ''} --approve {request.id} --who NAME "
        f"--key FILE --out FILE`"
    )


def _disclose(
    config: Config, transaction: int, sequence: int, part: str, who: str, number: str, key: Path, out: Path, *,
    as_json: bool,
) -> None:  # fmt: skip
    import msgspec  # noqa: PLC0415

    from gateway.audit.disclosing import encode_disclosure  # noqa: PLC0415
    from gateway.clock import SystemClock  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415
    from gateway.operations.approvals import ApprovalRefused, approving_text, sign  # noqa: PLC0415
    from gateway.operations.disclosures import shown_by  # noqa: PLC0415
    from gateway.operations.keys_offline import configured_approvals  # noqa: PLC0415

    if out.exists():
        fail(f"{out} exists already; nothing is ever overwritten", WRONG_USAGE)
    approvals = configured_approvals(config, SystemClock().utc_ms)
    try:
        request = approvals.pending(number)
        if shown_by(request) != (part, sequence, transaction):
            fail(f"request {number} is about: {request.subject}; approve what was asked for", WRONG_USAGE)
        made = _made(config, transaction, sequence, part)
        signature = sign(private_key_in(key), approving_text(request, who))
        with new_file(out) as file:  # before anything is told, so that a disk that refuses it costs no entry
            told = _approved(config, number, who, signature)
            complete = msgspec.structs.replace(
                made, disclosed_in=told, request=number, asked_by=request.who, approved_by=who, why=request.why
            )
            file.write(encode_disclosure(complete))
        approvals.finish(number)
    except (ApprovalRefused, JournalError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{out} cannot be written: {error.strerror}; the request stays, approve it again")
    if as_json:
        print_json({"file": str(out), "disclosed_in": told, "sequence": sequence, "part": part})
        return
    typer.echo(f"{out}: the {part} part of entry {sequence}; entry {told} tells of it")
    typer.echo(f"the auditor opens it with `holdfast audit open-disclosure {out.name} --verifier-key KEY`")


def _made(config: Config, transaction: int, sequence: int, part: str) -> Disclosure:
    """The disclosure as it would be, not told of yet."""
    from gateway.audit.disclosing import DisclosureError, disclose  # noqa: PLC0415
    from gateway.audit.kit_head import HeadError, newest_head  # noqa: PLC0415
    from gateway.audit.proving import ProvingError  # noqa: PLC0415
    from gateway.config.audit import origin_of  # noqa: PLC0415
    from gateway.config.key_source import load_keys  # noqa: PLC0415
    from gateway.journal.keyring import KeyPurpose  # noqa: PLC0415
    from gateway.journal.log_reader import LogReader  # noqa: PLC0415
    from gateway.journal.port import JournalError  # noqa: PLC0415
    from gateway.journal.sealing import Sealer  # noqa: PLC0415
    from protocol.transparency.notes import SignerKey  # noqa: PLC0415

    try:
        ring = load_keys(config.journal)
        origin = origin_of(config.audit, config.gateway.name)
        numbers = [n for n, record in ring.records.items() if record.purpose is KeyPurpose.LOG and n in ring.keys]
        keys = [SignerKey(origin, ring.keys[number]).verifier for number in numbers]
        with LogReader(config.journal.path) as reader:
            made = disclose(reader, newest_head(config.journal.path, keys), Sealer(ring), transaction, sequence, part)
            reader.check_unchanged()
    except (DisclosureError, ProvingError, HeadError, JournalError) as error:
        fail(str(error))
    return made


def _approved(config: Config, number: str, who: str, signature: str) -> int:
    """Have the running gateway, or its journal while none runs, tell of the disclosure; the entry's sequence."""
    import asyncio  # noqa: PLC0415

    import msgspec  # noqa: PLC0415

    from gateway.operations.client import NotRunningError  # noqa: PLC0415
    from gateway.operations.disclosures import Told, disclosures_offline  # noqa: PLC0415

    async def here() -> Told:
        async with disclosures_offline(config) as disclosures:
            return await disclosures.approve(number, who, signature)

    approval = {"who": who, "signature": signature}
    try:
        answer = ask(config, lambda client: client.post(f"/v1/audit/disclosures/{number}/approve", approval))
    except NotRunningError:
        return asyncio.run(here()).sequence
    return msgspec.json.decode(answer, type=Told).sequence


@audit.command("open-disclosure")
def open_disclosure_command(
    file: Annotated[
        Path, typer.Argument(help="The disclosure, as `holdfast audit disclose` wrote it.", metavar="FILE")
    ],
    verifier_key: Annotated[
        str,
        typer.Option("--verifier-key", help="The log's verifier key, or a file that holds it.", metavar="KEY"),
    ] = "",
    full: Annotated[bool, typer.Option("--full", help="Show the card number and sensitive fields unmasked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a disclosure (ciphertext, key, inclusion, signature) and read the part. Needs no journal and no gateway."""
    from gateway.audit.disclosing import DISCLOSURE_BYTES_MAX, DisclosureError, open_disclosure  # noqa: PLC0415
    from gateway.audit.disclosure_shown import lines_of, shown  # noqa: PLC0415
    from gateway.audit.kit_head import HeadError, verifier_keys_of  # noqa: PLC0415
    from gateway.core_dumps import refuse_core_dumps  # noqa: PLC0415

    refuse_core_dumps()
    try:
        keys = verifier_keys_of(verifier_key) if verifier_key else ()
        with file.open("rb") as content:
            opened = open_disclosure(content.read(DISCLOSURE_BYTES_MAX + 1), keys)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", WRONG_USAGE)
    except HeadError as error:
        fail(str(error), WRONG_USAGE)
    except DisclosureError as error:
        fail(f"{file} shows nothing: {error}")
    told = shown(opened, full=full)
    if as_json:
        print_json(told)
        return
    for line in lines_of(told):
        typer.echo(line)
