"""The memory level: its bound, its order, its tags, and that nothing old is put back."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st
from scalable_fastapi_system.infra.cache.memory import ENTRY_OVERHEAD_BYTES, Entry, MemoryLevel

FOREVER = float("inf")


def entry(payload: bytes = b"x", *tags: str) -> Entry:
    return Entry(payload, FOREVER, FOREVER, FOREVER, FOREVER, tags)


def test_the_least_recently_used_goes_first() -> None:
    memory = MemoryLevel(3 * (ENTRY_OVERHEAD_BYTES + 200))
    for key in "abc":
        memory.put(key, entry(b"x" * 100))
    memory.get("a")
    memory.put("d", entry(b"x" * 100))
    assert [key for key in "abcd" if memory.get(key) is not None] == ["a", "c", "d"]
    assert memory.evictions == 1


def test_what_is_larger_than_everything_is_not_kept_and_drives_nothing_out() -> None:
    memory = MemoryLevel(2000)
    memory.put("a", entry())
    assert not memory.put("b", entry(b"x" * 3000))
    assert memory.get("a") is not None
    assert not memory.put("a", entry(b"x" * 3000))
    assert memory.get("a") is None, "the value that it was to replace is old"


def test_a_level_of_no_bytes_keeps_nothing() -> None:
    memory = MemoryLevel(0)
    assert not memory.put("a", entry())
    assert memory.get("a") is None


@given(
    operations=st.lists(
        st.tuples(st.sampled_from(["put", "drop", "tag", "prefix"]), st.integers(0, 20), st.integers(0, 900)),
        max_size=60,
    )
)
def test_the_count_of_bytes_and_tags_is_exact_and_the_bound_holds(
    operations: list[tuple[str, int, int]],
) -> None:
    memory = MemoryLevel(8000)
    for what, number, size in operations:
        if what == "put":
            memory.put(f"{number % 3}:{number}", entry(b"x" * size, *(f"t{n}" for n in range(number % 4))))
        elif what == "drop":
            memory.drop([f"{number % 3}:{number}"])
        elif what == "tag":
            memory.drop(tags=[f"t{number % 4}"])
        else:
            memory.drop_prefix(f"{number % 3}:")
        assert 0 <= memory.size_bytes <= 8000
    for number in range(4):
        memory.drop_prefix(f"{number}:")
    assert (memory.size_bytes, len(memory), memory._by_tag) == (0, 0, {})


def test_what_was_dropped_since_the_mark_is_not_put() -> None:
    memory = MemoryLevel(100_000)
    mark = memory.mark()
    memory.drop(["key"], ["tag"])
    assert not memory.put("key", entry(), since=mark)
    assert not memory.put("other", entry(b"x", "tag"), since=mark)
    assert memory.put("other", entry(b"x", "another"), since=mark)
    assert memory.put("key", entry(), since=memory.mark())
    mark = memory.mark()
    memory.drop_prefix("k")
    assert not memory.put("anything", entry(), since=mark), "which keys a prefix meant is not remembered"
    mark = memory.mark()
    memory.clear()
    assert not memory.put("key", entry(), since=mark)


def test_drops_that_are_not_remembered_any_more_count_as_drops_of_everything() -> None:
    memory = MemoryLevel(100_000)
    mark = memory.mark()
    memory.drop(f"k{number}" for number in range(10_000))
    assert memory.was_dropped("never dropped", (), mark)
    assert not memory.was_dropped("never dropped", (), memory.mark())
    assert len(memory._dropped) <= 4096


def test_a_drop_that_is_forgotten_lets_nothing_back_that_a_clear_has_refused() -> None:
    memory = MemoryLevel(100_000)
    memory.drop(f"k{number}" for number in range(4096))  # as many as are remembered
    mark = memory.mark()
    memory.clear()
    memory.drop(["other"])  # the drop of k0 is forgotten for it
    assert not memory.put("k", entry(), since=mark)


def test_threads_do_it_no_harm() -> None:
    memory = MemoryLevel(20_000)

    def work(seed: int) -> None:
        for number in range(2000):
            key = f"{(number * seed) % 50}"
            memory.put(key, entry(b"x" * (number % 300), f"t{number % 5}"))
            memory.get(key)
            if number % 7 == 0:
                memory.drop([key], [f"t{number % 5}"])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.size_bytes <= 20_000
    memory.clear()
    assert (memory.size_bytes, memory._by_tag) == (0, {})
