"""Text of others, as it is shown on a line of its own: whoever wrote it cannot make lines, columns or colours of it."""

from __future__ import annotations


def one_line(text: str) -> str:
    """The text with what cannot be printed (line ends, tabs, what steers a terminal) written as an escape."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
