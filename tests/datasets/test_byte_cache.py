"""The cache makes a value once while it is held, and never holds more than its limit but for the newest."""

from calico.datasets.byte_cache import ByteCache


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
