"""The peer: the same two effects and the same poll in FastAPI and asyncpg, written as one usually would.

Separate statements in a transaction, the HMAC of CD1 with its time window, an audit row. It does *less* than the desk:
no sequence numbers, no idempotency, no stream numbers, no signed answers, no deltas.
"""

import hmac
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

import asyncpg
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field

from copybot import signing

PATH = "/api/v2/trades/active"


@dataclass(frozen=True)
class Account:
    id: int
    secret: str


keys: dict[str, Account] = {}
pool: asyncpg.Pool


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    global pool
    pool = await asyncpg.create_pool(os.environ["TWIN_URL"], min_size=4, max_size=8)
    for row in await pool.fetch("select id, key, secret from twin.accounts"):
        keys[row["key"]] = Account(row["id"], row["secret"])
    yield
    await pool.close()


app = FastAPI(lifespan=lifespan)
Amount = Annotated[Decimal, Field(max_digits=20, decimal_places=8)]


class Opening(BaseModel):
    ticket_id: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,18}$")]
    symbol: Annotated[str, Field(pattern=r"^[A-Z0-9._]{1,32}$")]
    type: Literal["BUY", "SELL"]
    volume: Annotated[Amount, Field(gt=0)]
    open_price: Amount
    sl: Amount | None = None
    tp: Amount | None = None


class Opened(BaseModel):
    id: int
    ticket_id: str
    status: str


class Closed(BaseModel):
    id: int
    ticket_id: str
    symbol: str
    profit: Decimal
    status: str


async def caller(request: Request) -> Account:
    """The account whose key signed this request."""
    sent = request.headers
    account = keys.get(sent.get("x-cd-key", ""))
    if account is None:
        raise HTTPException(401)
    time_ms, window_ms = int(sent["x-cd-time"]), int(sent["x-cd-window"])
    right = signing.sign(
        account.secret, method=request.method, host=sent["host"], path=request.url.path, query=request.url.query,
        key=sent["x-cd-key"], time_ms=time_ms, window_ms=window_ms, seq=int(sent["x-cd-seq"]),
        idempotency_key=sent.get("idempotency-key", ""), body=await request.body(),
    )  # fmt: skip
    if not hmac.compare_digest(f"v1={right}", sent["x-cd-sig"]) or abs(time.time() * 1000 - time_ms) > window_ms:
        raise HTTPException(401)
    return account


Caller = Annotated[Account, Depends(caller)]

INSERT = """
insert into twin.active_trades (account_id, ticket_id, master_ticket, symbol, type, volume, open_price, sl, tp)
values ($1, $2, $2, $3, $4, $5, $6, $7, $8) returning id
"""
LOCK = "select * from twin.active_trades where account_id = $1 and ticket_id = $2 for update"
KEEP = """
insert into twin.trade_history (account_id, ticket_id, master_ticket, symbol, type, volume, open_price, sl, tp,
                                opened_at, close_price, profit, reason)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) returning id
"""
DELETE = "delete from twin.active_trades where id = $1"
AUDIT = "insert into twin.audit_log (account_id, action, ticket_id, detail) values ($1, $2, $3, $4)"


@app.post(PATH, status_code=201, response_model=Opened)
async def open_trade(opening: Opening, request: Request, account: Caller) -> Opened:
    async with pool.acquire() as connection, connection.transaction():
        try:
            trade_id = await connection.fetchval(
                INSERT, account.id, opening.ticket_id, opening.symbol, opening.type, opening.volume, opening.open_price,
                opening.sl, opening.tp,
            )  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise HTTPException(409) from None
        detail = (await request.body()).decode()
        await connection.execute(AUDIT, account.id, "trade.opened", opening.ticket_id, detail)
    return Opened(id=trade_id, ticket_id=opening.ticket_id, status="OPEN")


@app.delete(PATH + "/{ticket}", response_model=Closed)
async def close_trade(
    ticket: str, close_price: Amount, profit: Amount, reason: Literal["TP", "SL", "MANUAL"], account: Caller
) -> Closed:
    async with pool.acquire() as connection, connection.transaction():
        trade = await connection.fetchrow(LOCK, account.id, ticket)
        if trade is None:
            raise HTTPException(404)
        history_id = await connection.fetchval(
            KEEP, account.id, ticket, trade["master_ticket"], trade["symbol"], trade["type"], trade["volume"],
            trade["open_price"], trade["sl"], trade["tp"], trade["opened_at"], close_price, profit, reason,
        )  # fmt: skip
        await connection.execute(DELETE, trade["id"])
        detail = f'{{"close_price": "{close_price}", "profit": "{profit}", "reason": "{reason}"}}'
        await connection.execute(AUDIT, account.id, "trade.closed", ticket, detail)
    return Closed(id=history_id, ticket_id=ticket, symbol=trade["symbol"], profit=profit, status="CLOSED")


@app.get(PATH)
async def active(request: Request, account: Caller) -> Response:
    """The poll: one row is read; 304 where its number is the one that the caller has."""
    revision = await pool.fetchval("select revision from twin.accounts where id = $1", account.id)
    etag = f'"{account.id}-{revision}"'
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    return Response(b"[]", media_type="application/json", headers={"ETag": etag})


@app.get("/healthz")
async def alive() -> dict[str, str]:
    return {"status": "alive"}
