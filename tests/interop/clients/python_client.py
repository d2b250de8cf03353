"""The official Python SDK as a client: lists tools, calls one, prints one line of JSON.

Not here: what is expected of it (tests/it/interop.rs).

usage: python_client.py URL|--stdio JSON [--sse] --mode auto|legacy --tool NAME --args JSON [--header 'Name: value']
"""

import argparse
import asyncio
import json

import httpx2
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

SECONDS_MAX = 30


async def run(options: argparse.Namespace) -> dict:
    headers = dict(line.split(": ", 1) for line in options.header)
    async with httpx2.AsyncClient(headers=headers, timeout=SECONDS_MAX) as http:
        if options.stdio:
            transport = stdio_client(StdioServerParameters(**json.loads(options.stdio)))
        elif options.sse:
            transport = sse_client(options.url, headers=headers)
        else:
            transport = streamable_http_client(options.url, http_client=http)
        async with Client(transport, mode=options.mode) as client:
            tools = await client.list_tools()
            result = await client.call_tool(options.tool, json.loads(options.args))
            return {
                "client": "python",
                "era": "modern" if client.session.discover_result is not None else "legacy",
                "server": client.server_info.name if client.server_info else None,
                "tools": [tool.name for tool in tools.tools],
                "result": json.loads(result.model_dump_json(by_alias=True, exclude_none=True)),
            }


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?")
    parser.add_argument("--stdio")
    parser.add_argument("--sse", action="store_true")
    parser.add_argument("--mode", default="auto")
    parser.add_argument("--tool", required=True)
    parser.add_argument("--args", default="{}")
    parser.add_argument("--header", action="append", default=[])
    async with asyncio.timeout(SECONDS_MAX):
        print(json.dumps(await run(parser.parse_args())))


asyncio.run(main())
