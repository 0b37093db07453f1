"""What came at least twice is remembered, and never more of it than was said."""

from __future__ import annotations

from proxy.memo import Memo


def test_what_comes_once_is_not_kept():
    """The second time it is, the third time it is found."""
    memo: Memo[bytes, int] = Memo(4)
    assert memo.find(b"a") is None
    assert not memo.note(b"a", 1)
    assert memo.find(b"a") is None
    assert memo.note(b"a", 2)
    assert memo.find(b"a") == 2
    assert memo.find(b"b") is None


def test_no_more_are_kept_than_was_said():
    """One too many, and it begins anew."""
    memo: Memo[int, int] = Memo(4)
    for key in range(5):
        memo.note(key, key)
        memo.note(key, key)
        assert len(memo) <= 4
        assert memo.find(key) == key
    assert memo.find(0) is None


def test_what_never_comes_again_takes_no_room():
    """However much of it there is."""
    memo: Memo[int, int] = Memo(4)
    for key in range(20_000):
        memo.note(key, key)
    assert len(memo) == 0
    assert len(memo._once) <= 4096
