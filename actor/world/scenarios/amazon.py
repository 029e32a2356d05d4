"""What can be asked of Amazon: the wish list, the cart, what orders cost, a question about a product.

No scenario of training needs this app.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from actor.world import people
from actor.world.people import NOW, Product
from actor.world.scenarios.form import (
    ANSWER,
    DONE,
    Choice,
    Draft,
    Row,
    Scenario,
    Setting,
    first_page,
    login,
    logins,
    pages,
)
from actor.world.scenarios.simple_note import FIND as FIND_NOTE
from actor.world.scenarios.simple_note import notes
from actor.world.scenarios.tests import question, touched

LOGIN = login("amazon")
FIND = "n = apis.amazon.search_products($seek)[0]['product_id']"
WISHED = "apis.amazon.show_wish_list(access_token=t)"
ORDERS = "amazon.show_orders"
DELIVERY = 5  # dollars an order


def _listed(model: str, setting: Setting, products: Sequence[Product], counts: Sequence[int]) -> tuple[Row, ...]:
    """The supervisor's WishListEntry or CartEntry rows; the engine lists the first one first."""
    return tuple(
        Row(
            app="amazon",
            model=model,
            fields={"user_id": setting.me.id, "product_id": product.id, "quantity": count},
        )
        for product, count in zip(products, counts, strict=True)
    )


def _wished(rng: random.Random, setting: Setting) -> Draft:
    products = rng.sample(setting.products, 9)
    wished, in_cart = products[:6], products[6:]
    rows = _listed("WishListEntry", setting, wished, rng.choices((1, 2, 3), k=6))
    rows += _listed("CartEntry", setting, in_cart, rng.choices((1, 2, 3), k=3))
    dearest = max(wished, key=lambda product: product.price)
    return Draft(values={}, rows=rows, answer=dearest.name, private={"candidates": [p.name for p in wished]})


WISH_DEAREST = Scenario(
    name="wishDearest",
    difficulty=2,
    instruction="What is the name of the most expensive product on my Amazon wish list?",
    cells=(LOGIN, "s = $list\nprint($pick(s, key=lambda x: x['price'])['product_name'])", ANSWER),
    choices={
        "list": Choice(right=WISHED, wrong=(("apis.amazon.show_cart(access_token=t)['cart_items']", 1),), chance=0.85),
        "pick": Choice(right="max", wrong=(("min", 1),), chance=0.6),
    },
    draft=_wished,
    evaluate=question,
)


def _ordered(rng: random.Random, setting: Setting) -> Draft:
    """Seven to nine orders, the newest first, each of one or two products."""
    rows: list[Row] = []
    paid = []
    for number in range(1, rng.randint(7, 9) + 1):
        at = NOW - timedelta(days=3 * number)
        fields = {"user_id": setting.me.id, "delivery_fee": DELIVERY, "created_at": at}
        rows.append(
            Row(
                app="amazon",
                model="Order",
                fields={**fields, "address_text": "12 Oak Street", "payment_card_digits": "1234"},
            )
        )
        cost = DELIVERY
        for product in rng.sample(setting.products, rng.randint(1, 2)):
            count = rng.randint(1, 3)
            cost += product.price * count
            fields = {"order_id": number, "product_id": product.id, "price": product.price, "ordered_quantity": count}
            arrived = {"expected_delivery_at": at + timedelta(days=2), "delivered_at": at + timedelta(days=2)}
            rows.append(
                Row(
                    app="amazon",
                    model="OrderItem",
                    fields={**fields, **arrived, "returned_quantity": 0, "gift_wrap_quantity": 0},
                )
            )
        paid.append(cost)
    sums = [str(sum(paid[: i + 1])) for i in range(len(paid))]
    return Draft(values={}, rows=tuple(rows), answer=sums[-1], private={"candidates": sums})


ORDER_SPENT = Scenario(
    name="orderSpent",
    difficulty=2,
    instruction="How many dollars have I paid for all my Amazon orders together?",
    cells=(LOGIN, "s = $read\nprint(int(sum(x['paid_amount'] for x in s)))", ANSWER),
    choices={"read": Choice(right=pages(ORDERS), wrong=((first_page(ORDERS), 1),), chance=0.5)},
    draft=_ordered,
    evaluate=question,
)


def _to_add(rng: random.Random, setting: Setting) -> Draft:
    asked, *others = rng.sample(setting.products[1:], 6)
    count = rng.randint(2, 5)
    rows = _listed("WishListEntry", setting, others[:3], (1, 2, 1)) + _listed("CartEntry", setting, others[3:], (1, 3))
    values = {"product": asked.name, "count": str(count)}
    return Draft(values=values, rows=rows, private={"product_id": asked.id, "quantity": count})


def in_cart(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("amazon.CartEntry")
    with test("that product is in the cart"):
        test.case([row.product_id for row in added], "==", [private_data["product_id"]])
    with test("as many as were asked for are in the cart"):
        test.case([row.quantity for row in added], "==", [private_data["quantity"]])
    with test("a product was added, nothing else was changed, and the task was completed without an answer"):
        test.case(touched(models), "==", {"amazon.CartEntry": [1, 0, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


ADD_TO_CART = Scenario(
    name="addToCart",
    difficulty=2,
    instruction="Put $count of the product '$product' into my Amazon cart.",
    cells=(LOGIN, FIND, f"apis.amazon.$verb(product_id=n$much, access_token=t)\n{DONE}"),
    choices={
        "seek": Choice(right="query='$product'", wrong=(("", 1),), chance=0.9),
        "verb": Choice(right="add_product_to_cart", wrong=(("add_product_to_wish_list", 1),), chance=0.8),
        "much": Choice(right=", quantity=$count", wrong=(("", 1),), chance=0.6),
    },
    draft=_to_add,
    evaluate=in_cart,
)


def _to_buy(rng: random.Random, setting: Setting) -> Draft:
    products = rng.sample(setting.products, 8)
    counts = rng.choices((2, 3, 4), k=6)
    asked = rng.randrange(1, 6)
    rows = _listed("WishListEntry", setting, products[:6], counts) + _listed("CartEntry", setting, products[6:], (1, 2))
    private = {"product_id": products[asked].id, "quantity": counts[asked]}
    return Draft(values={"product": products[asked].name}, rows=rows, private=private)


def bought(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("amazon.CartEntry")
    _, _, removed = models.changed_records("amazon.WishListEntry")
    with test("all of that product are in the cart"):
        found = [(row.product_id, row.quantity) for row in added]
        test.case(found, "==", [(private_data["product_id"], private_data["quantity"])])
    with test("the product is no longer on the wish list"):
        test.case([row.product_id for row in removed], "==", [private_data["product_id"]])
    with test("a product was moved, nothing else was changed, and the task was completed without an answer"):
        test.case(touched(models), "==", {"amazon.CartEntry": [1, 0, 0], "amazon.WishListEntry": [0, 0, 1]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


WISH_TO_CART = Scenario(
    name="wishToCart",
    difficulty=2,
    instruction="Move all I have of '$product' on my Amazon wish list to my cart.",
    cells=(
        LOGIN,
        f"x = next(x for x in {WISHED} if x['product_name'] == '$product')",
        f"apis.amazon.$verb(product_id=x['product_id']$much, access_token=t)\n{DONE}",
    ),
    choices={
        "verb": Choice(right="move_product_from_wish_list_to_cart", wrong=(("add_product_to_cart", 1),), chance=0.8),
        "much": Choice(right=", quantity=x['quantity']", wrong=(("", 1),), chance=0.5),
    },
    draft=_to_buy,
    evaluate=bought,
)


def _to_ask(rng: random.Random, setting: Setting) -> Draft:
    product = rng.choice(setting.products[1:])
    titles, contents = people.alike(rng, 6), people.saying(rng, 6)
    asked = rng.randrange(1, 6)
    return Draft(
        values={"product": product.name, "note": titles[asked]},
        rows=notes(setting, titles, contents),
        private={"product_id": product.id, "question": contents[asked]},
    )


def asked_about(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("amazon.ProductQuestion")
    with test("the question is about that product"):
        test.case([row.product_id for row in added], "==", [private_data["product_id"]])
    with test("the question says so"):
        test.case([row.question for row in added], "==", [private_data["question"]])
    with test("a question was asked, nothing else was changed, and the task was completed without an answer"):
        test.case(touched(models), "==", {"amazon.ProductQuestion": [1, 0, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


ASK_NOTE = Scenario(
    name="askNote",
    difficulty=3,
    instruction="Post what my note '$note' in SimpleNote says as a question about the product '$product' on Amazon.",
    cells=(
        logins("simple_note", "amazon"),
        f"{FIND_NOTE}\nx = apis.simple_note.show_note(note_id=n, access_token=t)['content']",
        f"{FIND}\napis.amazon.write_product_question(product_id=n, question=x, access_token=u)\n{DONE}",
    ),
    choices={
        "find": Choice(right=", query='$note'", wrong=(("", 1),), chance=0.8),
        "seek": Choice(right="query='$product'", wrong=(("", 1),), chance=0.8),
    },
    draft=_to_ask,
    evaluate=asked_about,
)
