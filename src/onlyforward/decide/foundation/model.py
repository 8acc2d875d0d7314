"""The model: a transformer over instance, items and decisions; every decision sees all items and the earlier ones.

Tokens [instance][item_1 .. item_n]: an item's token says which decision is due and what was decided before.
Recommendation and prices are decided domain by domain, for all items at once; orders item by item, the most attractive
first, because two items that share customers are stocked in place of each other. The sequence depends on the items'
features alone, so the probabilities permute with the items. Candidates (items, prices of any list, orders up to any
cap) are scored from their own features, so that no size is fixed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from onlyforward.core.checks import check_choice
from onlyforward.decide.foundation.tokens import (
    INSTANCE_FEATURES,
    ITEM_FEATURES,
    LARGEST_PRICE,
    LARGEST_STOCK,
    Tokens,
)

VIEWS = ("joint", "masked", "own")
"""joint: a decision sees all items and the earlier decisions; masked: not the earlier decisions; own: its domain's own
features of the items alone."""
DOMAINS = ("recommend", "price", "order")
OWN = {
    "recommend": (5, 6),
    "price": (5, 6, 8, 9, 13),
    "order": (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18),
}
"""Columns of an item's features that a domain knows by itself: recommendation the utility and the cost, pricing the
demand curve as well, inventory the stock and the demand but no utility. That demand includes the item's share beside
the others (`tokens.joint_statistics`), which favours this view."""


class FoundationPolicy(nn.Module):
    """Policy over recommendation, prices and orders.

    Args:
        width: d of the tokens.
        layers: of the encoder.
        view: joint, masked or own.
        alpha: level of the quantile or CVaR that fine-tuning maximises, as it stands in the instance's token; 1 is the
            mean.
        seed: of the initial weights.
    """

    def __init__(
        self, *, width: int = 64, layers: int = 2, view: str = "joint", alpha: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.view = check_choice(view, VIEWS, name="view")
        self.alpha = alpha
        self.told = {"width": width, "layers": layers, "view": view, "alpha": alpha, "seed": seed}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.instance = nn.Linear(INSTANCE_FEATURES, width)
            self.item = nn.Sequential(nn.Linear(ITEM_FEATURES, width), nn.GELU(), nn.Linear(width, width))
            self.domain = nn.Parameter(0.3 * torch.randn(len(DOMAINS), width))
            self.decided = nn.Linear(5, width)
            layer = nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
            self.recommend = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
            self.price_query, self.price_key = nn.Linear(width, width), nn.Linear(5, width)
            self.price_score = nn.Linear(width, 1)
            self.order_query, self.order_key = nn.Linear(width, width), nn.Linear(5, width)
            self.order_score = nn.Linear(width, 1)

    def hidden(
        self,
        told: Tokens,
        domain: str,
        chosen: Tensor | None = None,
        price: Tensor | None = None,
        ordered: Tensor | None = None,
    ) -> Tensor:
        """Encoded tokens of one domain's decision [B, n, d].

        Args:
            told: the decisions.
            domain: recommend, price or order.
            chosen: [B] recommended item, or None.
            price: [B, n] prices decided, or None.
            ordered: [B, n] orders decided, NaN for items still open, or None.
        """
        batch, n = told.present.shape
        place = DOMAINS.index(domain)
        seen = told.items
        if self.view == "own":
            keep = seen.new_zeros(ITEM_FEATURES)
            keep[list(OWN[domain])] = 1.0
            seen = seen * keep
        known = seen.new_zeros(batch, n, 5)
        if self.view == "joint":
            if chosen is not None:
                known[..., 0] = 1.0
                known[..., 1] = torch.nn.functional.one_hot(chosen, n)
            if price is not None:
                known[..., 2] = price / LARGEST_PRICE
            if ordered is not None:
                known[..., 3] = (~ordered.isnan()).to(seen.dtype)
                known[..., 4] = ordered.nan_to_num(0.0) / LARGEST_STOCK
        decision = self.item(seen) + self.domain[place] + self.decided(known)
        sequence = torch.cat((self.instance(told.instance)[:, None], decision), 1)
        absent = torch.nn.functional.pad(told.present == 0, (1, 0))
        # A handful of tokens: the blockwise kernels of long sequences cost more than the products.
        with sdpa_kernel(SDPBackend.MATH):
            return self.encoder(sequence, src_key_padding_mask=absent if bool(absent.any()) else None)[:, 1:]

    def recommend_logits(self, told: Tokens) -> Tensor:
        """Scores of the items [B, n]."""
        score = self.recommend(self.hidden(told, "recommend"))[..., 0]
        return score.masked_fill(told.present == 0, -1e9)

    def price_logits(self, told: Tokens, chosen: Tensor | None) -> Tensor:
        """Scores of every item's prices [B, n, K]."""
        hidden = self.price_query(self.hidden(told, "price", chosen))
        listed = told.prices[:, None].expand(-1, hidden.shape[1], -1)
        filled = listed.nan_to_num(1.0)
        utility, cost = told.items[..., 5:6], told.items[..., 6:7]
        keys = torch.stack(
            (
                filled / LARGEST_PRICE,
                (filled / LARGEST_PRICE) ** 2,
                (utility - filled).clamp(max=3).exp() / 5,
                (filled - cost) / LARGEST_PRICE,
                torch.sigmoid(utility - filled),
            ),
            -1,
        )
        score = self.price_score(nn.functional.gelu(hidden[:, :, None] + self.price_key(keys)))[..., 0]
        return score.masked_fill(listed.isnan(), -1e9)

    def order_logits(
        self, told: Tokens, item: Tensor, chosen: Tensor | None, price: Tensor | None, ordered: Tensor | None
    ) -> Tensor:
        """Scores of one item's orders 0..largest in the batch [B, Z]; `item` [B] says which."""
        row = torch.arange(len(item), device=item.device)
        hidden = self.order_query(self.hidden(told, "order", chosen, price, ordered)[row, item])
        most, own = told.most[row, item, None], told.items[row, item]
        amount = torch.arange(int(told.most.max()) + 1, device=hidden.device).expand(len(item), -1)
        stock, expected = own[:, :1] * LARGEST_STOCK, own[:, 11:12] * LARGEST_STOCK
        keys = torch.stack(
            (
                amount / LARGEST_STOCK,
                amount / most.clamp(min=1),
                (amount + stock) / (expected + own[:, 12:13] * 10 + 1) / 3,
                (amount + stock) / (own[:, 17:18] * LARGEST_STOCK + own[:, 12:13] * 10 + 1) / 3,
                torch.log1p(amount + stock) / 3,
            ),
            -1,
        )
        score = self.order_score(nn.functional.gelu(hidden[:, None] + self.order_key(keys)))[..., 0]
        return score.masked_fill(amount > most, -1e9)


def order_sequence(told: Tokens) -> Tensor:
    """The items in the order in which their stock is decided [B, n]: utility less cost, the highest first."""
    appeal = told.items[..., 5] - told.items[..., 6]
    return appeal.masked_fill(told.present == 0, -1e9).argsort(dim=-1, descending=True, stable=True)


def decide(
    model: FoundationPolicy, told: Tokens, stages: tuple[str, ...], generator: torch.Generator | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Decisions of every stage and the ln of their probability [B].

    Args:
        model: the policy.
        told: the decisions to take.
        stages: their domains, in order.
        generator: None decides greedily, otherwise it samples.

    Returns:
        "recommend" [B], "price" [B, n] (places in the list), "order" [B, n], of the stages asked for.
    """
    found: dict[str, Tensor] = {}
    log_prob = told.instance.new_zeros(len(told.instance))
    row = torch.arange(len(log_prob), device=log_prob.device)
    money = None
    for stage in stages:
        chosen = found.get("recommend")
        if stage == "recommend":
            found[stage], taken = choose(model.recommend_logits(told), generator)
            log_prob = log_prob + taken
        elif stage == "price":
            found[stage], taken = choose(model.price_logits(told, chosen), generator)
            log_prob = log_prob + (taken * told.present).sum(-1)
            money = told.prices.gather(1, found[stage])
        else:
            ordered = torch.full_like(told.present, float("nan"))
            for item in order_sequence(told).unbind(1):
                pick, taken = choose(model.order_logits(told, item, chosen, money, ordered), generator)
                log_prob = log_prob + taken * told.present[row, item]
                ordered = ordered.index_put((row, item), pick.to(ordered.dtype))
            found[stage] = ordered.long()
    return found, log_prob


def choose(logits: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The best or a sampled candidate of scores [..., k], and the ln of its probability: [...], [...]."""
    chances = logits.log_softmax(-1)
    if generator is None:
        pick = chances.argmax(-1)
    else:
        flat = chances.detach().exp().flatten(0, -2)
        pick = torch.multinomial(flat, 1, generator=generator).view(chances.shape[:-1])
    return pick, chances.gather(-1, pick[..., None])[..., 0]
