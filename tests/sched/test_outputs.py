"""Expected output: what the same prefix led to, else the same tenant, else anybody, else the configured guess."""

from tests.core import CONFIG, Bench


def expected(bench, name, text, **more):
    return bench.arrive(name, text, **more).expected_output_tokens


def learn(bench, text, output_tokens, *, times=3, **more):
    for _ in range(times):
        name = f"learn {len(bench.seen)}"
        bench.finish(bench.arrive(name, text, max_output_tokens=1000, **more), output_tokens=output_tokens)


def test_before_anything_was_seen_it_is_the_guess():
    assert expected(Bench("a"), "r", "x" * 40) == CONFIG.expected_output_tokens


def test_the_same_prefix_counts_before_the_tenant_and_the_tenant_before_all():
    bench = Bench("a")
    learn(bench, "x" * 40, 100, tenant="one")
    learn(bench, "y" * 40, 10, tenant="two", times=9)
    assert expected(bench, "r1", "x" * 40 + "z" * 8, tenant="two", max_output_tokens=1000) == 100
    assert expected(bench, "r2", "w" * 40, tenant="two", max_output_tokens=1000) == 10
    assert 10 < expected(bench, "r3", "v" * 40, tenant="three", max_output_tokens=1000) < 100


def test_two_answers_prove_nothing():
    bench = Bench("a")
    learn(bench, "x" * 40, 100, times=2)
    assert expected(bench, "r", "x" * 40) == CONFIG.expected_output_tokens


def test_the_clients_cap_is_a_bound_and_no_prediction():
    bench = Bench("a")
    learn(bench, "x" * 40, 100)
    assert expected(bench, "r1", "x" * 40, max_output_tokens=7) == 7
    assert expected(bench, "r2", "x" * 40, max_output_tokens=5000) == 100


def test_each_sequence_counts():
    bench = Bench("a")
    learn(bench, "x" * 40, 30, n_sequences=3)
    assert expected(bench, "r", "x" * 40, n_sequences=2, max_output_tokens=1000) == 20


def test_both_halves_of_a_split_prefix_remember():
    bench = Bench("a")
    learn(bench, "x" * 40, 100)
    learn(bench, "q" * 40, 1, times=5)
    bench.arrive("splits", "x" * 20 + "y" * 20)
    assert expected(bench, "r1", "x" * 20 + "z" * 20, max_output_tokens=1000) == 100
    assert expected(bench, "r2", "x" * 40, max_output_tokens=1000) == 100


def test_it_follows_a_change():
    bench = Bench("a")
    learn(bench, "x" * 40, 100, times=50)
    learn(bench, "x" * 40, 10, times=100)
    assert expected(bench, "r", "x" * 40, max_output_tokens=1000) < 20
