"""A regular expression takes exponential time, and holds the GIL all the while."""

import asyncio
import re


async def validate(text):
    return re.fullmatch(r"(\w+\s?)*", text)  # culprit


async def main():
    print(await validate("a" * 23 + "!"))


asyncio.run(main())
