"""The cache makes a value once while it is held, and never holds more than its limit but for the newest."""

import gc

import pytest

from calico.datasets import byte_cache
from calico.datasets.byte_cache import UNLIMITED, ByteCache


def test_the_least_recently_used_goes_first() -> None:
    made: list[str] = []
    cache: ByteCache[str, bytes] = ByteCache(10, len)

    def get(key: str, size: int) -> bytes:
        return cache.get(key, lambda: made.append(key) or bytes(size))   # type: ignore[func-returns-value]

    for key in ("a", "b", "a", "c", "a", "b"):       # c takes the place of b, which was used before a
        assert len(get(key, 4)) == 4 and cache.held <= 10
    assert made == ["a", "b", "c", "b"]


def test_a_value_larger_than_the_limit_is_kept_alone() -> None:
    cache: ByteCache[int, bytes] = ByteCache(10, len)
    cache.get(1, lambda: bytes(5))
    big = cache.get(2, lambda: bytes(50))
    assert cache.held == 50 and cache.get(2, lambda: b"") is big


def test_the_caches_of_a_process_share_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    others = len(byte_cache._LIMITED)
    caches: list[ByteCache[int, bytes]] = [ByteCache(1000, len) for _ in range(4)]
    monkeypatch.setattr(byte_cache, "TOGETHER", 50 * (others + 4))
    everything: ByteCache[int, bytes] = ByteCache(UNLIMITED, len)
    for cache in [*caches, everything]:
        for key in range(20):
            cache.get(key, lambda: bytes(10))
    assert [cache.held for cache in caches] == [50] * 4 and everything.held == 200
    del caches[1:], cache                        # those that are left share what the others had
    gc.collect()
    for key in range(20):
        caches[0].get(key, lambda: bytes(10))
    assert caches[0].held == 50 * (others + 4) // (others + 1) // 10 * 10
