"""A workflow of one's own: its events, its phases, its fold and a projection of it, each a few lines.

Its proof is `test_my_machine.py`; the command knows it by `--app my_machine:APP`.
"""

from enum import StrEnum

from attrs import evolve, frozen

from eventstore import Machine, Recorded
from projections import App, Projection


@frozen
class OrderPlaced:
    item: str
    quantity: int


@frozen
class OrderPaid:
    amount: float


@frozen
class OrderShipped:
    pass


@frozen
class OrderCancelled:
    reason: str = ""


class Phase(StrEnum):
    NEW = "new"
    PLACED = "placed"
    PAID = "paid"
    SHIPPED = "shipped"
    CANCELLED = "cancelled"


@frozen
class Order:
    phase: Phase = Phase.NEW
    item: str = ""
    paid: float = 0.0


def fold(order: Order, recorded: Recorded) -> Order:
    match recorded.event:
        case OrderPlaced(item=item):
            return evolve(order, item=item)
        case OrderPaid(amount=amount):
            return evolve(order, paid=order.paid + amount)
    return order


ORDER = Machine(
    name="order",
    initial=Order(),
    table={
        Phase.NEW: {OrderPlaced: Phase.PLACED},
        Phase.PLACED: {OrderPaid: Phase.PAID, OrderCancelled: Phase.CANCELLED},
        Phase.PAID: {OrderShipped: Phase.SHIPPED},
        Phase.SHIPPED: {},
        Phase.CANCELLED: {},
    },
    evolve=fold,
)


@frozen
class ItemRow:
    """One row an item: how many orders were placed for it."""

    item: str
    orders: int


def count_orders(row: ItemRow | None, recorded: Recorded) -> ItemRow | None:
    return ItemRow(item=recorded.event.item, orders=1 + (row.orders if row else 0))


ITEMS = Projection(
    name="items",
    version=1,
    row=ItemRow,
    key=("item",),
    events=(OrderPlaced,),
    evolve=count_orders,
    locate=lambda recorded: (recorded.event.item,),
)

APP = App(machines=[ORDER], projections=[ITEMS])
