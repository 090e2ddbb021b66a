"""Which fields of one dialect always fit another: any value of theirs that one can read, the other can write.

Found out once for two dialects, so that not every message has to be encoded only to learn whether it could be (D8).
"""

from __future__ import annotations

from typing import Final

from protocol.iso8583.dialect import Dialect
from protocol.iso8583.fields import Counts, FieldSpec, FieldType

_MADE_HERE: Final = {
    2: FieldSpec(name="card number from a track", type=FieldType.N, length=19, prefix_digits=2),
    7: FieldSpec(name="transmission time", type=FieldType.N, length=10),
    11: FieldSpec(name="STAN", type=FieldType.N, length=6),
    37: FieldSpec(name="retrieval reference", type=FieldType.AN, length=12),
    38: FieldSpec(name="approval code", type=FieldType.AN, length=6),
    39: FieldSpec(name="response code", type=FieldType.AN, length=2),
}
"""What the gateway itself puts into an advice."""


def covers(target: FieldSpec, source: FieldSpec) -> bool:
    """Whether every value of the field `source` can be written as the field `target`. In doubt, not."""
    if FieldType.Z in (source.type, target.type) or FieldType.XN in (source.type, target.type):
        return False
    if source.is_hex != target.is_hex:
        return False
    if source.is_text and not target.is_text:
        return False
    if target.prefix_digits == 0:
        return source.prefix_digits == 0 and source.length == target.length
    if source.length > target.length:
        return False
    if target.is_packed and target.counts is Counts.BYTES:  # an odd number of digits may not be tellable
        return source.prefix_digits == 0 and source.length % 2 == 0 and not target.strips_pad
    return True


def always_fitting(source: Dialect, target: Dialect) -> frozenset[int]:
    """Fields of `source` that can be forwarded in `target` whatever they hold, or that `target` does not carry at all.

    Empty where even what the gateway itself adds to an advice might not fit.
    """
    carried = target.fields
    if any(number in carried and not covers(carried[number], spec) for number, spec in _MADE_HERE.items()):
        return frozenset()
    return frozenset(
        number for number, spec in source.fields.items() if number not in carried or covers(carried[number], spec)
    )
