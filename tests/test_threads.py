"""Threads over clips: results in order, a few ahead, and no more work after a failure."""

from __future__ import annotations

import threading
import time

import pytest

from jax_reparam import threads


def test_results_come_in_the_order_of_the_items():
    def slow_at_first(item):
        time.sleep(0.002 * (5 - item % 5))
        return item * item

    assert list(threads.in_order(slow_at_first, range(20), 3)) == [item * item for item in range(20)]


def test_it_runs_a_few_items_ahead_of_a_slow_reader():
    started = []
    results = threads.in_order(started.append, range(100), 2)
    for _ in range(3):
        next(results)
    time.sleep(0.05)
    assert 3 <= len(started) <= 3 + 4 * 2 + 1
    results.close()


def test_two_work_at_the_same_time():
    both = threading.Barrier(2, timeout=5)
    assert sorted(threads.in_order(lambda _: both.wait(), range(2), 2)) == [0, 1]


def test_a_failure_comes_through_and_what_waits_is_not_begun():
    begun = []

    def fail(item):
        begun.append(item)
        if item == 0:
            raise ValueError('item 0')
        time.sleep(0.05)

    with pytest.raises(ValueError, match='item 0'):
        list(threads.in_order(fail, range(20), 1))
    assert len(begun) < 4  # of the five that it was given


def test_an_engine_has_one_item_at_a_time():
    busy = set()

    def use(engine, item):
        assert engine not in busy
        busy.add(engine)
        time.sleep(0.001)
        busy.remove(engine)
        if item == 30:
            raise ValueError('item 30')
        return engine, item

    results = threads.in_order_by(['a', 'b', 'c'], use, range(31))
    found = [next(results) for _ in range(30)]
    assert [item for _, item in found] == list(range(30))
    assert {engine for engine, _ in found} == {'a', 'b', 'c'}
    with pytest.raises(ValueError, match='item 30'):
        next(results)
