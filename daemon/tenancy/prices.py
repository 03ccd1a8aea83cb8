"""What requests cost, where tokens have prices."""

from preble.daemon.config import ANY_MODEL, PricesConfig


class Prices:
    """Prices of models' tokens. A price per million is one of millionths per token, in which costs are counted."""

    def __init__(self, config: PricesConfig) -> None:
        self._prices = config.per_million_tokens

    def cost_micros(self, model: str, *, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> int | None:
        """In whole millionths; None if the model has no price. `cached_tokens` are some of `prompt_tokens`."""
        price = self._prices.get(model) or self._prices.get(ANY_MODEL)
        if price is None:
            return None
        cached_price = price.input if price.cached is None else price.cached
        prompt = (prompt_tokens - cached_tokens) * price.input + cached_tokens * cached_price
        return round(prompt + output_tokens * price.output)
