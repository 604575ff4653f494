import asyncio


async def remind(customer):
    await asyncio.sleep(3600)
    print(customer, "has not paid")


async def sell(customer):
    asyncio.create_task(remind(customer))
    return "sold"


def test_sell():
    assert asyncio.run(sell("Ann")) == "sold"
