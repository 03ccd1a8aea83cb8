"""The waiting line: order of arrival within a group, proportion between groups, and nobody waits for ever."""

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given

from preble.daemon.sched.order import GROUPS, MOST_PICKS, REFRESHED, WaitingLine


def line(shares, *, grouped=True):
    """Names wait in the order given; `shares` may be changed later."""
    waiting = WaitingLine(lambda name: shares[name], grouped=grouped)
    for name in shares:
        waiting.add(name, name)
    return waiting


def drain(waiting):
    order = []
    while (name := waiting.first()) is not None:
        order.append(waiting.start(name))
    return order


def test_without_groups_it_is_first_come_first_served():
    assert drain(line({"a": 0.0, "b": 1.0, "c": 0.5}, grouped=False)) == ["a", "b", "c"]


def test_within_a_group_it_is_first_come_first_served():
    assert drain(line({"a": 0.31, "b": 0.39, "c": 0.35})) == ["a", "b", "c"]


def test_groups_are_served_in_proportion():
    """The paper's example: of 55 starts, ten are of the group with the most cached, one of that with the least."""
    shares = {f"{group} {n}": group / GROUPS for n in range(60) for group in range(GROUPS)}
    first = Counter(name.split()[0] for name in drain(line(shares))[:MOST_PICKS])
    assert first == {str(group): group + 1 for group in range(GROUPS)}


def test_the_share_is_that_of_the_moment_of_the_start():
    shares = {"a": 0.0, "b": 0.0, "c": 0.95}
    waiting = line(shares)
    shares.update(b=0.95, c=0.0)
    assert drain(waiting)[0] == "b"


def test_whoever_is_about_to_start_is_looked_at_again_in_a_long_line_too():
    shares = {f"{n}": 0.0 for n in range(REFRESHED)} | {"cached": 0.95}
    waiting = line(shares)
    shares["cached"] = 0.0
    assert drain(waiting)[0] == "0"


def test_a_share_that_changes_far_back_in_a_long_line_is_seen_within_a_few_starts():
    shares = {f"{n}": 0.0 for n in range(100)}
    waiting = line(shares)
    shares["99"] = 1.0
    assert "99" in drain(waiting)[: 100 // 8 + 2]


def test_who_leaves_the_line_is_not_started():
    waiting = line({"a": 0.5, "b": 0.5, "c": 0.1})
    waiting.remove("a")
    assert "a" not in waiting
    assert len(waiting) == 2
    assert set(drain(waiting)) == {"b", "c"}


def test_the_last_are_the_latest_of_the_lowest_group():
    waiting = line({"a": 0.2, "b": 0.9, "c": 0.2, "d": 0.9})
    waiting.first()
    assert waiting.last(5) == ["c", "a"]
    assert waiting.last(1) == ["c"]


@given(
    arrivals=st.lists(st.integers(0, GROUPS - 1), min_size=1, max_size=40),
    later=st.lists(st.integers(0, GROUPS - 1), max_size=300),
    served_before=st.integers(0, 30),
)
def test_nobody_waits_longer_than_the_bound(arrivals, later, served_before):
    """One more arrives after each start, so that the line never gets shorter."""
    shares = {f"old {n}": group / GROUPS for n, group in enumerate(arrivals)}
    waiting = line(shares)
    for n in range(served_before):
        shares[f"before {n}"] = 0.95
        waiting.add(f"before {n}", f"before {n}")
        waiting.start(waiting.first())
    left = [name for name in waiting if name.startswith("old")]
    if not left:
        return
    target = left[-1]
    group = round(shares[target] * GROUPS)
    ahead = sum(shares[name] == shares[target] for name in left) - 1
    bound = (ahead + 1) * MOST_PICKS / (group + 1) + GROUPS
    starts = 0
    for n, new in enumerate(later):
        starts += 1
        name = waiting.start(waiting.first())
        if name == target:
            break
        shares[f"new {n}"] = new / GROUPS
        waiting.add(f"new {n}", f"new {n}")
    assert starts <= bound
