"""Which node loads a cold model. Pure, over the neurons' own plans."""

from collections.abc import Sequence
from dataclasses import dataclass

from neuron.protocol.types import LoadPlan


@dataclass(frozen=True, slots=True)
class Offer:
    """One node's answer to "could you load this?"; `plan` None: it did not answer."""

    node: str
    plan: LoadPlan | None = None
    refusal: str | None = None
    """Why it never could, whatever the memory."""


def rank(offers: Sequence[Offer]) -> list[str]:
    """Nodes to try, best first: fits now, then most room left, then name.

    Nodes that refuse outright are left out; those that gave no plan come last.
    """
    able = [offer for offer in offers if offer.refusal is None]
    return [offer.node for offer in sorted(able, key=_key)]


def _key(offer: Offer) -> tuple[bool, bool, int, str]:
    plan = offer.plan
    if plan is None:
        return True, True, 0, offer.node
    return not plan.fits, False, -(plan.available_bytes or 0), offer.node
