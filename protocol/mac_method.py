"""The names of the methods by which MACs are made; mac.py computes them."""

from __future__ import annotations

from enum import StrEnum


class MacMethod(StrEnum):
    """How the MAC of a message is computed; profile data, agreed with the peer."""

    UNIONPAY_ECB = "unionpay-ecb"
    X9_9 = "x9.9"
    X9_19 = "x9.19"
    AES_CMAC = "aes-cmac"
    NONE = "none"
