"""The messages of one entry, opened with the operator's keys and masked. Auditors hold no keys and do without."""

from __future__ import annotations

from typing import Final

from gateway.audit.entry_reports import decoded
from gateway.journal.keyring import Keyring
from gateway.journal.log_reader import LogEntry
from gateway.journal.rows import RowDamaged, unpack_account
from gateway.journal.sealing import ACCOUNT_PART, SealBroken, Sealer
from protocol.masking import mask_pans, masked_fields

_WITHHELD: Final = frozenset({64, 128})


def opened_message(keyring: Keyring, stored: LogEntry) -> dict[str, dict[str, str]]:
    """The account part's messages ("request", "answer"): MTI and fields, masked; why not under "closed".

    Raises:
        LogDamaged: it is not an entry.
    """
    entry = decoded(stored)
    said = next((each for each in entry.parts if each.part == ACCOUNT_PART), None)
    if said is None or stored.account is None:
        return {}
    try:
        request, answer = unpack_account(Sealer(keyring).open(stored.sequence, said, stored.account))
    except (SealBroken, RowDamaged) as error:
        return {"closed": {"reason": str(error)}}
    card = request.fields.get(2, "") if request is not None else ""
    messages: dict[str, dict[str, str]] = {}
    for name, message in (("request", request), ("answer", answer)):
        if message is not None:
            masked = masked_fields(message.fields, (card,))
            shown = {str(number): mask_pans(value) for number, value in sorted(masked.items())}
            messages[name] = {"mti": message.mti} | {n: v for n, v in shown.items() if int(n) not in _WITHHELD}
    return messages
