"""A terminal's receipt over ISO 8583: HF1 in a private field of its answer, online, offline and after a kill."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.till import TEST_CARDS
from gateway.journal.log_reader import LogReader
from protocol.iso8583.dialect import load_dialect
from protocol.journal_entry import decode_entry
from protocol.receipt_field import ReceiptField
from tests.acceptance.real_journal import holdfast
from tests.gateway.shop import open_shop, play, setup

FIELD = 63


def test_answers_carry_a_receipt_that_the_journal_satisfies_and_a_cut_one_does_not(tmp_path: Path) -> None:
    async def story() -> None:
        house = setup(overrides={"terminals": {"receipt_field": FIELD}})
        async with open_shop(tmp_path, house) as shop:
            terminal = shop.terminal()
            spec = load_dialect(house.terminal_dialect).fields[FIELD]
            receipts = []
            for away in (False, True):
                if away:
                    await shop.host_leaves()
                told = await terminal.ask(terminal.till.sale(1250, TEST_CARDS[0]))
                value = told.message.fields[FIELD]
                receipt = ReceiptField.parse(bytes.fromhex(value).decode() if spec.is_hex else value)
                receipts.append((told.message.fields[11], receipt))
            await shop.kill()
            await shop.gateway.start()
            journal = tmp_path / "journal.sqlite3"
            with LogReader(journal) as reader:
                for stan, receipt in receipts:
                    entry = decode_entry(reader.entry(receipt.index).body)
                    assert entry.key.endswith(stan)
                    assert receipt.index < receipt.size <= reader.size
            for _, receipt in receipts:
                paper = tmp_path / "paper"
                paper.write_text(receipt.text)
                config = str(shop.gateway.config)
                checked = await asyncio.to_thread(holdfast, "audit", "receipt", str(paper), "-c", config)
                assert checked.stdout.startswith("accepted: "), checked.stdout + checked.stderr
                paper.write_text(ReceiptField(receipt.index, receipt.size + 10_000, receipt.prefix).text)
                checked = await asyncio.to_thread(holdfast, "audit", "receipt", str(paper), "-c", config)
                assert (checked.returncode, "its tail is cut" in checked.stdout) == (1, True)

    play(story())
