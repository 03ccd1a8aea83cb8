"""What requests cost."""

from dataclasses import replace

import pytest
from tests.obs.test_metrics import settled

from preble.daemon.config import Price, PricesConfig
from preble.daemon.flow.settle import Bookkeeper
from preble.daemon.obs.metrics import Metrics
from preble.daemon.tenancy.prices import Prices

DEAR = Price(input=2.0, cached=0.5, output=8.0)
CHEAP = Price(input=0.25, output=0.75)


def cost(prices: dict[str, Price], model: str, prompt: int, cached: int, output: int) -> int | None:
    found = Prices(PricesConfig(per_million_tokens=prices))
    return found.cost_micros(model, prompt_tokens=prompt, cached_tokens=cached, output_tokens=output)


def test_a_million_tokens_cost_their_price():
    assert cost({"m": DEAR}, "m", 1_000_000, 0, 0) == 2_000_000
    assert cost({"m": DEAR}, "m", 1_000_000, 1_000_000, 0) == 500_000
    assert cost({"m": DEAR}, "m", 0, 0, 1_000_000) == 8_000_000
    assert cost({"m": DEAR}, "m", 1000, 400, 10) == 1200 + 200 + 80


def test_without_a_price_of_their_own_cached_tokens_cost_as_others():
    assert cost({"m": CHEAP}, "m", 1000, 400, 0) == cost({"m": CHEAP}, "m", 1000, 0, 0) == 250


def test_a_model_has_its_own_price_or_that_of_all_others_or_none():
    assert cost({"m": DEAR, "*": CHEAP}, "m", 100, 0, 0) == 200
    assert cost({"m": DEAR, "*": CHEAP}, "n", 100, 0, 0) == 25
    assert cost({"m": DEAR}, "n", 100, 0, 0) is None
    assert cost({"*": Price(input=0, output=0)}, "m", 100, 0, 9) == 0


@pytest.mark.parametrize(("shares", "micros"), [(False, 52 * 2 + 48 * 0.5 + 40), (True, 100 * 2 + 40)])
def test_what_a_request_costs_does_not_tell_what_others_have_asked(shares, micros):
    booked = []
    books = Bookkeeper(
        record_usage=booked.append,
        record_explanation=lambda _: None,
        metrics=Metrics(),
        prices=Prices(PricesConfig(per_million_tokens={"*": DEAR})),
    )
    one = settled()
    books.settle(replace(one, call=replace(one.call, hide_cache=shares)))
    (row,) = booked
    assert (row.cost_micros, row.cached_tokens, row.gpu_ms) == (micros, 48, 60.0)
