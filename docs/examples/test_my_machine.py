"""How a test author proves a machine of their own: legal histories, every cell reached, the log agreeing."""

import my_machine
from hypothesis import given
from hypothesis import strategies as st
from my_machine import ORDER, OrderCancelled, OrderPaid, OrderPlaced, OrderShipped

import projections
from eventstore.testing import histories

EVENTS = {  # what may happen to an order as it stands
    OrderPlaced: lambda _order: st.builds(OrderPlaced, st.sampled_from(["tea", "rice"]), st.integers(1, 9)),
    OrderPaid: lambda _order: st.builds(OrderPaid, amount=st.floats(0, 100)),
    OrderShipped: lambda _order: st.just(OrderShipped()),
    OrderCancelled: lambda _order: st.just(OrderCancelled(reason="changed my mind")),
}


@given(histories(ORDER, events=EVENTS))
def test_an_order_ships_only_when_it_is_paid(history):
    with projections.connect("memory:", app=my_machine.APP) as runs:
        order = runs.store.stream("order-1", ORDER)
        for event in history:
            order.append(event)

        types = [recorded.type for recorded in order.read()]
        assert "OrderShipped" not in types or types.index("OrderPaid") < types.index("OrderShipped")
        assert runs.check().ok
