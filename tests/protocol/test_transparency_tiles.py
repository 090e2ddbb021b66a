"""Tiles by c2sp.org/tlog-tiles: paths, which there are, and the tree that is read back out of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.transparency.proofs import (
    ProofError,
    prove_consistency,
    prove_inclusion,
    verify_consistency,
    verify_inclusion,
)
from protocol.transparency.text import NUMBER_MAX
from protocol.transparency.tiles import (
    TILE_WIDTH,
    Tile,
    TileError,
    TileHashes,
    build_bundle,
    build_tile,
    split_bundle,
    split_tile,
    tiles_of,
)
from protocol.transparency.tree import frontier_at, leaf_hash
from tests.acceptance.logs import GrownLog

BORDERS = [1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 66_000]


@pytest.fixture(scope="module")
def log() -> GrownLog:
    return GrownLog([place.to_bytes(3) for place in range(66_000)])


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (Tile(0, 273, 112), "tile/0/273.p/112"),
        (Tile(1, 1, 17), "tile/1/001.p/17"),
        (Tile(63, 999), "tile/63/999"),
        (Tile(None, 1000), "tile/entries/x001/000"),
        (Tile(None, 1_234_067, 1), "tile/entries/x001/x234/067.p/1"),
        (Tile(0, NUMBER_MAX), "tile/0/x009/x223/x372/x036/x854/x775/807"),
    ],
)
def test_a_tile_has_the_path_of_the_specification(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert Tile.parse(path) == tile


@given(st.none() | st.integers(0, 63), st.integers(0, NUMBER_MAX), st.integers(1, 256))
def test_every_tile_is_found_by_its_path(level: int | None, index: int, width: int) -> None:
    assert Tile.parse(Tile(level, index, width).path) == Tile(level, index, width)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "checkpoint",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/01/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/001/000",
        "tile/0/x000/001",
        "tile/0/x001",
        "tile/0/x001/x000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000/",
        "tile/0/000\n",
        "/tile/0/000",
        "tile/0/../000",
        "tile/0/٠٠٠",
        "tile/data/000",
        "tile/entries/0",
        "tile/0/" + "x999/" * 6 + "999",
        "tile/0/" + "x999/" * 5000 + "999",
    ],
)
def test_what_is_no_path_of_a_tile_is_refused(path: str) -> None:
    with pytest.raises(TileError):
        Tile.parse(path)


@pytest.mark.parametrize("tile", [Tile(64, 0), Tile(-1, 0), Tile(0, -1), Tile(0, 0, 0), Tile(0, 0, 257)])
def test_what_is_no_tile_has_no_path(tile: Tile) -> None:
    with pytest.raises(TileError):
        _ = tile.path


def test_the_tiles_of_70000_entries_are_those_of_the_specification() -> None:
    tiles = [tile for tile in tiles_of(70_000) if tile.level is not None]
    assert sum(tile.level == 0 and tile.width == 256 for tile in tiles) == 273
    assert sum(tile.level == 1 and tile.width == 256 for tile in tiles) == 1
    assert [tile for tile in tiles if tile.width < 256] == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert len(tiles) == 277
    bundles = [tile for tile in tiles_of(70_000) if tile.level is None]
    assert bundles == [Tile(None, tile.index, tile.width) for tile in tiles if tile.level == 0]


def test_256_entries_are_a_full_tile_and_the_first_hash_of_the_next_level() -> None:
    assert list(tiles_of(256)) == [Tile(None, 0), Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == []


@given(st.sampled_from([*BORDERS, 0, 70_000]), st.integers(0, 600))
def test_what_is_published_bit_by_bit_is_what_is_published_at_once(since: int, more: int) -> None:
    """A partial tile is replaced by a wider one; nothing else is ever written again."""
    size = since + more
    written = set(tiles_of(since))
    new = list(tiles_of(size, since))
    assert len(new) == len(set(new))
    assert not written & set(new)
    assert set(tiles_of(size)) <= written | set(new)
    assert set(new) <= set(tiles_of(size))


def test_a_log_does_not_shrink() -> None:
    for sizes in ((1, 2), (-1, -1), (NUMBER_MAX + 1, 0)):
        with pytest.raises(TileError):
            list(tiles_of(*sizes))


@pytest.mark.parametrize("size", BORDERS)
def test_roots_and_proofs_are_read_back_out_of_tiles(log: GrownLog, size: int) -> None:
    stored = {tile: build_tile(tile, log.read) for tile in tiles_of(size) if tile.level is not None}
    hashes = TileHashes(size, stored.__getitem__)
    root = frontier_at(size, log.read).root()
    assert frontier_at(size, hashes).root() == root
    chosen = random.Random(size)
    for index in {0, size - 1, size // 2, *(chosen.randrange(size) for _ in range(20))}:
        path = prove_inclusion(index, size, hashes)
        assert path == prove_inclusion(index, size, log.read), index
        verify_inclusion(log.leaf(index), index, size, path, root)
    for first in {1, size, *(each for each in BORDERS if each < size), chosen.randint(1, size)}:
        first_root = frontier_at(first, log.read).root()
        assert frontier_at(first, hashes).root() == first_root
        verify_consistency(first, size, first_root, root, prove_consistency(first, size, hashes))


def test_a_full_tile_does_in_the_place_of_a_partial_one(log: GrownLog) -> None:
    hashes = TileHashes(300, lambda tile: build_tile(Tile(tile.level, tile.index), log.read))
    assert frontier_at(300, hashes).root() == frontier_at(300, log.read).root()


def test_a_changed_tile_gives_proofs_that_do_not_verify(log: GrownLog) -> None:
    def spoilt(tile: Tile) -> bytes:
        content = bytearray(build_tile(tile, log.read))
        content[0] ^= 1
        return bytes(content)

    path = prove_inclusion(5, 300, TileHashes(300, spoilt))
    with pytest.raises(ProofError):
        verify_inclusion(log.leaf(5), 5, 300, path, frontier_at(300, log.read).root())


def test_few_tiles_are_read_and_fewer_kept(log: GrownLog) -> None:
    asked: list[Tile] = []

    def read(tile: Tile) -> bytes:
        asked.append(tile)
        return build_tile(tile, log.read)

    hashes = TileHashes(66_000, read)
    prove_inclusion(1000, 66_000, hashes)
    assert len(asked) <= 6
    assert len(asked) == len(set(asked))
    for index in range(0, 66_000, 256):
        hashes(0, index)
    assert len(hashes._kept) <= 32


@pytest.mark.parametrize(("level", "index"), [(0, 300), (8, 1), (9, 0), (-1, 0), (0, -1)])
def test_a_subtree_that_is_not_complete_is_not_made_up(log: GrownLog, level: int, index: int) -> None:
    hashes = TileHashes(300, lambda tile: build_tile(tile, log.read))
    with pytest.raises(TileError):
        hashes(level, index)


@pytest.mark.parametrize("content", [b"", bytes(43 * 32), bytes(45 * 32), bytes(44 * 32 + 1), bytes(257 * 32)])
def test_a_tile_of_another_length_is_refused(content: bytes) -> None:
    assert TileHashes(300, lambda _tile: bytes(44 * 32))(0, 256) == bytes(32)
    with pytest.raises(TileError):
        TileHashes(300, lambda _tile: content)(0, 256)


def test_what_is_no_tile_of_hashes_is_not_built(log: GrownLog) -> None:
    with pytest.raises(TileError):
        build_tile(Tile(None, 0), log.read)
    with pytest.raises(TileError):
        build_tile(Tile(0, 0, 2), lambda _level, _index: b"short")
    with pytest.raises(TileError):
        TileHashes(-1, lambda _tile: b"")


@given(st.lists(st.binary(max_size=400), min_size=1, max_size=TILE_WIDTH))
def test_a_bundle_gives_back_its_entries(entries: list[bytes]) -> None:
    content = build_bundle(entries)
    assert split_bundle(content, len(entries)) == entries
    for wrong in (content[:-1], content + b"\x00", content + b"\x00\x00", b""):
        with pytest.raises(TileError):
            split_bundle(wrong, len(entries))
    for width in (0, len(entries) - 1, len(entries) + 1):
        with pytest.raises(TileError):
            split_bundle(content, width)


def test_the_longest_entry_fits_a_bundle_and_one_byte_more_does_not() -> None:
    assert build_bundle([b"\x01" * 65_535])[:3] == b"\xff\xff\x01"
    assert split_bundle(build_bundle([b"x" * 65_535, b""]), 2) == [b"x" * 65_535, b""]
    for wrong in ([], [b"x" * 65_536], [b""] * 257):
        with pytest.raises(TileError):
            build_bundle(wrong)


def test_a_tile_holds_the_hashes_in_order(log: GrownLog) -> None:
    assert split_tile(build_tile(Tile(0, 1, 2), log.read)) == [leaf_hash(log.entries[256]), leaf_hash(log.entries[257])]
