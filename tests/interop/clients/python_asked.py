"""The official Python SDK as a client that a server asks back: sampling, elicitation, roots.

Not here: what is expected of it (tests/it/children.rs).

usage: python_asked.py URL --tool WORD; WORD comes back in every answer
"""

import argparse
import asyncio
import json

import httpx2
from mcp import types
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

SECONDS_MAX = 30


async def run(url: str, word: str) -> dict:
    asked = []

    async def sampled(context, params):
        asked.append("sampling/createMessage")
        content = types.TextContent(type="text", text=f"sampled {word}")
        return types.CreateMessageResult(role="assistant", content=content, model="none")

    async def elicited(context, params):
        asked.append("elicitation/create")
        return types.ElicitResult(action="accept", content={"name": f"elicited {word}", "check": True})

    async def roots(context):
        asked.append("roots/list")
        return types.ListRootsResult(roots=[types.Root(uri=f"file:///{word}", name=f"root {word}")])

    async with httpx2.AsyncClient(timeout=SECONDS_MAX) as http:
        transport = streamable_http_client(url, http_client=http)
        client = Client(
            transport,
            mode="legacy",
            sampling_callback=sampled,
            elicitation_callback=elicited,
            list_roots_callback=roots,
        )
        async with client:
            tools = await client.list_tools()

            async def text(name, arguments):
                result = await client.call_tool(name, arguments)
                return json.dumps([json.loads(block.model_dump_json()) for block in result.content])

            return {
                "tools": [tool.name for tool in tools.tools],
                "sampled": await text("trigger-sampling-request", {"prompt": "hello", "maxTokens": 10}),
                "elicited": await text("trigger-elicitation-request", {}),
                "roots": await text("get-roots-list", {}),
                "asked": asked,
            }


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--tool", required=True)
    options = parser.parse_args()
    async with asyncio.timeout(SECONDS_MAX):
        print(json.dumps(await run(options.url, options.tool)))


asyncio.run(main())
