"""How templates were used of late."""

from preble.daemon.templates.recent import RECENT_S, Recent, Used


def test_it_is_counted_for_a_while():
    recent = Recent()
    recent.add(1, 1, Used(requests=1, prefix_tokens=100, cached_tokens=50), 0.0)
    recent.add(1, 1, Used(requests=1, prefix_tokens=100, cached_tokens=100), 200.0)
    recent.add(1, 2, Used(requests=1), 200.0)
    assert recent.rows(200.0) == {(1, 1): Used(2, 200, 150), (1, 2): Used(1, 0, 0)}
    assert recent.rows(RECENT_S + 20.0)[1, 1] == Used(1, 100, 100)
    assert recent.rows(RECENT_S + 210.0) == {}


def test_what_was_not_used_for_longest_is_forgotten():
    recent = Recent()
    for number in range(600):
        recent.add(number, 1, Used(requests=1), 0.0)
    assert min(recent.rows(0.0)) == (100, 1)
