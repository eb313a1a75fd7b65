"""What hostile callers say: statements that would bring a trade back, lose one, or change what happened."""

import json
from typing import Any

PROTECTED = ["trades", "active_trades", "trade_history", "trade_reductions", "copy_orders", "signed_results"]


def hot(**fields: Any) -> Any:
    """A hot row like ticket 3's, with these fields."""
    return _row("active_trades", "<other>", fields)


def cold(**fields: Any) -> Any:
    """A cold row like ticket 2's, with these fields."""
    return _row("trade_history", "<closed>", fields)


def _row(table: Any, like: Any, fields: Any) -> str:
    record = f"jsonb_populate_record(t, '{json.dumps(fields)}')"
    return f"insert into {table} select ({record}).* from {table} t where trade_id = '{like}'"


def merge(table: Any, condition: Any, then: Any) -> str:
    return f"merge into {table} t using (values (1)) v on {condition} when matched then {then}"


def copied(table: Any, columns: Any, row: Any) -> str:
    return f"copy {table} ({columns}) from stdin (format csv)\n{row}\n"


ID_1, ID_2 = {"trade_id": "<open>", "ticket_id": "1"}, {"trade_id": "<closed>", "ticket_id": "2"}
UNHOUSE = "delete from active_trades where trade_id = '<open>'"
CLOSE = "update trades set state = 'CLOSED' where id = '<open>'"
REOPEN = "update trades set state = 'OPEN' where id = '<closed>'"
AGAIN = "insert into trades (id, account_id, ticket_id, state) values ('{id}', <lena>, '{ticket}', '{state}')"
SECOND = AGAIN.format(id="<nobody>", ticket="2", state="OPEN")
NINTH = {"id": "<nobody>", "ticket": "9"}
DEAL = "insert into trade_reductions (trade_id, deal_id, volume, remaining, close_price, profit) values "
TWICE = f"{DEAL} ('<other>', 'd1', 0.01, 0.03, 1, 1)"

ACTIVE_KEY, HISTORY_KEY = "active_trade_belongs_to_an_open_trade", "closed_trade_belongs_to_a_closed_trade"
LOST_OPEN, LOST_CLOSED = "open_trade_is_active", "closed_trade_is_history"
CLOSED_FOR_EVER, APPEND_ONLY, IDENTITY, STREAM = "CD001", "CD002", "CD003", "CD004"
FORBIDDEN, MISSING = "42501", "23502"

ZOMBIES = [
    ("a hot row for a closed trade", [hot(**ID_2)], ACTIVE_KEY),
    ("a hot row for a tombstone", [hot(trade_id="<tombstone>", ticket_id="4")], ACTIVE_KEY),
    ("a hot row for a closed trade, with status closed", [hot(**ID_2, status="SHUT")], "active_trade_status_is_open"),
    ("a hot row for a closed trade, on another's account", [hot(**ID_2, account_id="<finn>")], ACTIVE_KEY),
    ("a hot row for a closed trade, by an open one's name", [hot(trade_id="<closed>", ticket_id="1")], ACTIVE_KEY),
    (
        "a hot row moved to a closed trade",
        ["update active_trades set trade_id = '<closed>' where trade_id = '<open>'"],
        IDENTITY,
    ),
    ("a closed trade opened", [REOPEN], CLOSED_FOR_EVER),
    ("a closed trade opened, with its hot row", [REOPEN, hot(**ID_2)], CLOSED_FOR_EVER),
    ("a tombstone opened", ["update trades set state = 'OPEN' where id = '<tombstone>'"], CLOSED_FOR_EVER),
    (
        "a closed trade updated without a change",
        ["update trades set state = state where id = '<closed>'"],
        CLOSED_FOR_EVER,
    ),
    ("every trade opened", ["update trades set state = 'OPEN'"], CLOSED_FOR_EVER),
    (
        "a closed trade opened by ON CONFLICT",
        [f"{SECOND} on conflict (account_id, ticket_id) do update set state = 'OPEN'"],
        CLOSED_FOR_EVER,
    ),
    (
        "a closed trade opened by MERGE",
        [merge("trades", "t.id = '<closed>'", "update set state = 'OPEN'")],
        CLOSED_FOR_EVER,
    ),
    (
        "a closed trade's ticket under a new identity",
        [SECOND, hot(trade_id="<nobody>", ticket_id="2")],
        "trade_is_unique_on_its_account",
    ),
    (
        "a closed trade's ticket freed and used",
        ["update trades set ticket_id = '99' where id = '<closed>'", SECOND],
        CLOSED_FOR_EVER,
    ),
    (
        "a closed trade's identity inserted again",
        [AGAIN.format(id="<closed>", ticket="9", state="OPEN")],
        "trades_pkey",
    ),
    (
        "a closed trade's identity by COPY",
        [copied("trades", "id, account_id, ticket_id, state", "<nobody>,<lena>,2,OPEN")],
        "trade_is_unique_on_its_account",
    ),
    (
        "a hot row for a closed trade by COPY",
        [
            copied(
                "active_trades",
                "trade_id, account_id, strategy_id, ticket_id, master_ticket, seq, symbol, type, volume,"
                " opened_volume, open_price, status, comment, opened_at",
                '<closed>,<lena>,1,2,2,9,EURUSD,BUY,1,1,1,OPEN,"",2026-01-05',
            )
        ],
        ACTIVE_KEY,
    ),
    ("a closed trade's identity deleted", ["delete from trades where id = '<closed>'"], APPEND_ONLY),
    (
        "a closed trade deleted from both ends",
        ["delete from trade_history where trade_id = '<closed>'", "delete from trades where id = '<closed>'"],
        APPEND_ONLY,
    ),
    ("a closed trade deleted by MERGE", [merge("trades", "t.id = '<closed>'", "delete")], APPEND_ONLY),
]

TWO_HOMES = [
    ("history of an open trade", [cold(**ID_1)], HISTORY_KEY),
    ("history of an open trade, with status open", [cold(**ID_1, status="OPEN")], "trade_history_status_is_closed"),
    ("a closed state beside the hot row", [CLOSE, cold(**ID_1)], ACTIVE_KEY),
    (
        "a closed state beside a hot row with status closed",
        [CLOSE, "update active_trades set status = 'SHUT'"],
        ACTIVE_KEY,
    ),
    ("history first, state later", [cold(**ID_1), UNHOUSE, CLOSE], HISTORY_KEY),
    ("a second history", [cold(close_price="9")], "trade_history_pkey"),
    ("a second hot row", [hot(**ID_1)], "active_trades_pkey"),
    ("a hot row without an identity", [hot(trade_id="<nobody>", ticket_id="9")], ACTIVE_KEY),
    ("history without an identity", [cold(trade_id="<nobody>", ticket_id="9")], HISTORY_KEY),
    ("history of another ticket", [UNHOUSE, CLOSE, cold(trade_id="<open>", ticket_id="9")], HISTORY_KEY),
    ("history of another's account", [UNHOUSE, CLOSE, cold(**ID_1, account_id="<finn>")], HISTORY_KEY),
    (
        "history of another trade, closed in its place",
        [UNHOUSE, CLOSE, cold(trade_id="<other>", ticket_id="3")],
        HISTORY_KEY,
    ),
    ("a hot row of another ticket", [UNHOUSE, hot(trade_id="<open>", ticket_id="9")], ACTIVE_KEY),
    ("a hot row of another's account", [UNHOUSE, hot(**ID_1, account_id="<finn>")], ACTIVE_KEY),
]

LOST = [
    ("the hot row deleted, nothing else", [UNHOUSE], LOST_OPEN),
    ("every hot row deleted", ["delete from active_trades"], LOST_OPEN),
    ("a copy's hot row deleted", ["delete from active_trades where trade_id = '<copy>'"], LOST_OPEN),
    ("a close without a history row", [UNHOUSE, CLOSE], LOST_CLOSED),
    ("an open trade without a home", [AGAIN.format(**NINTH, state="OPEN")], LOST_OPEN),
    ("a closed trade without a home", [AGAIN.format(**NINTH, state="CLOSED")], LOST_CLOSED),
    ("a trade of an unknown state", [AGAIN.format(**NINTH, state="LIMBO")], "trade_state_is_known"),
    ("a trade whose state is in lower case", [AGAIN.format(**NINTH, state="open")], "trade_state_is_known"),
    (
        "a trade moved to an unknown state",
        [UNHOUSE, "update trades set state = 'LIMBO' where id = '<open>'"],
        "trade_state_is_known",
    ),
    ("a hot row deleted in a savepoint", ["savepoint s", UNHOUSE, "release savepoint s"], LOST_OPEN),
    ("a hot row deleted, keys checked at once", ["set constraints all immediate", UNHOUSE], LOST_OPEN),
    ("a hot row deleted, keys checked at commit", ["set constraints all deferred", UNHOUSE, "select 1"], LOST_OPEN),
    ("a key that cannot be deferred", [f"set constraints {ACTIVE_KEY} deferred", REOPEN], "42809"),
    ("a hot row taken by a CTE", [f"with gone as ({UNHOUSE} returning *) select count(*) from gone"], LOST_OPEN),
    ("a hot row taken by MERGE", [merge("active_trades", "t.trade_id = '<open>'", "delete")], LOST_OPEN),
    ("an open trade's identity deleted", [UNHOUSE, "delete from trades where id = '<open>'"], APPEND_ONLY),
    ("the open trade's key emptied", ["update trades set open_id = null where id = '<open>'"], "428C9"),
    ("an account deleted with its trades", ["delete from trading_accounts where id = <lena>"], "23503"),
    ("a strategy deleted with its trades", ["delete from strategies where name = 'lena-eurusd'"], "23503"),
]

EMPTIED = [
    *((f"{table} emptied", [f"truncate {table} cascade"], APPEND_ONLY) for table in [*PROTECTED[:5], "audit_log"]),
    *(
        (f"{table} emptied, and with it all trades", [f"truncate {table} cascade"], APPEND_ONLY)
        for table in ["users", "trading_accounts", "strategies"]
    ),
    *((f"{table} emptied alone", [f"truncate {table}"], "0A000") for table in PROTECTED[:3]),
    *((f"{table} emptied alone", [f"truncate {table}"], APPEND_ONLY) for table in PROTECTED[3:5]),
    (
        "all tables of trades emptied",
        [
            "truncate trades, active_trades, trade_history, trade_reductions, trade_requests, trade_corrections"
            " restart identity"
        ],
        APPEND_ONLY,
    ),
]

HISTORY_CHANGED = [
    ("a profit changed", ["update trade_history set profit = 999 where trade_id = '<closed>'"], APPEND_ONLY),
    ("history updated without a change", ["update trade_history set profit = profit"], APPEND_ONLY),
    (
        "a tombstone turned into a trade",
        ["update trade_history set kind = 'TRADE' where trade_id = '<tombstone>'"],
        APPEND_ONLY,
    ),
    ("history deleted", ["delete from trade_history where trade_id = '<closed>'"], APPEND_ONLY),
    ("history changed by ON CONFLICT", [f"{cold()} on conflict (trade_id) do update set profit = 999"], APPEND_ONLY),
    ("history changed by MERGE", [merge("trade_history", "true", "update set profit = 999")], APPEND_ONLY),
    ("history deleted by MERGE", [merge("trade_history", "true", "delete")], APPEND_ONLY),
    (
        "history moved elsewhere",
        ["create temporary table elsewhere as table trade_history", "delete from trade_history"],
        APPEND_ONLY,
    ),
    ("history replaced", ["delete from trade_history where trade_id = '<closed>'", cold(profit="999")], APPEND_ONLY),
    ("a partial close changed", ["update trade_reductions set profit = 999"], APPEND_ONLY),
    ("a partial close deleted", ["delete from trade_reductions"], APPEND_ONLY),
    ("a partial close reported twice", [TWICE], "trade_reduction_deal_is_told_once"),
    (
        "a partial close changed by ON CONFLICT",
        [f"{TWICE} on conflict (trade_id, deal_id) do update set profit = 999"],
        APPEND_ONLY,
    ),
    ("a partial close of an unknown trade", [f"{DEAL} ('<nobody>', 'd9', 0.01, 0.03, 1, 1)"], "23503"),
    (
        "a partial close of zero lots",
        [f"{DEAL} ('<open>', 'd9', 0, 0.1, 1, 1)"],
        "trade_reduction_amounts_are_positive",
    ),
    (
        "a partial close whose volume is NaN",
        [f"{DEAL} ('<open>', 'd9', 'NaN', 0.1, 1, 1)"],
        "trade_reduction_amounts_are_numbers",
    ),
    (
        "a partial close whose profit is NaN",
        [f"{DEAL} ('<open>', 'd9', 0.01, 0.09, 1, 'NaN')"],
        "trade_reduction_amounts_are_numbers",
    ),
]

FALSE_HISTORY = [
    (f"a close with {name} {value}", [UNHOUSE, CLOSE, cold(**{**ID_1, name: value})], expected)
    for name, value, expected in [
        ("status", "OPEN", "trade_history_status_is_closed"),
        ("reason", "BORED", "trade_history_reason_is_known"),
        ("close_price", "NaN", "trade_history_amounts_are_numbers"),
        ("profit", "NaN", "trade_history_amounts_are_numbers"),
        ("closing_profit", "NaN", "trade_history_amounts_are_numbers"),
        ("profit", "Infinity", "22003"),
        ("kind", "GHOST", "trade_history_tells_all_but_of_a_tombstone"),
        ("kind", "TOMBSTONE", "trade_history_tells_all_but_of_a_tombstone"),
        *(
            (name, None, "trade_history_tells_all_but_of_a_tombstone")
            for name in (
                "symbol",
                "type",
                "volume",
                "closed_volume",
                "open_price",
                "profit",
                "closing_profit",
                "opened_at",
            )
        ),
        *(
            (name, None, MISSING)
            for name in ("trade_id", "status", "account_id", "ticket_id", "kind", "reason", "close_price")
        ),
    ]
]

IDENTITY_CHANGED = [
    *(
        (f"an open trade with another {name}", [f"update trades set {name} = {value} where id = '<open>'"], IDENTITY)
        for name, value in [
            ("id", "'<nobody>'"),
            ("account_id", "<finn>"),
            ("ticket_id", "'9'"),
            ("opening", "'\\x00'"),
            ("opening", "null"),
        ]
    ),
    *(
        (f"an open trade without {name}", [f"update trades set {name} = null where id = '<open>'"], expected)
        for name, expected in [("state", MISSING), ("account_id", IDENTITY), ("ticket_id", IDENTITY)]
    ),
    *(
        (
            f"a closed trade with another {name}",
            [f"update trades set {name} = {value} where id = '<closed>'"],
            CLOSED_FOR_EVER,
        )
        for name, value in [("account_id", "<finn>"), ("ticket_id", "'9'"), ("opening", "'\\x00'")]
    ),
    (
        "two trades' tickets exchanged",
        ["update trades set ticket_id = 4 - ticket_id::int where ticket_id in ('1', '3')"],
        IDENTITY,
    ),
    (
        "a close under another ticket",
        [UNHOUSE, "update trades set state = 'CLOSED', ticket_id = '9' where id = '<open>'"],
        IDENTITY,
    ),
    *(
        (
            f"a ticket {ticket!r}",
            [AGAIN.format(id="<nobody>", ticket=ticket, state="OPEN")],
            "trade_ticket_is_well_formed",
        )
        for ticket in ["0", "01", "", "-1", "x", "1 ", "1\n"]
    ),
]

OPENING_CHANGED = [
    *(
        (
            f"a hot row with {name} {value}",
            [f"update active_trades set {name} = {value} where trade_id = '<open>'"],
            IDENTITY,
        )
        for name, value in [
            ("trade_id", "'<nobody>'"),
            ("account_id", "<finn>"),
            ("strategy_id", "strategy_id + 1"),
            ("ticket_id", "'9'"),
            ("master_ticket", "'9'"),
            ("master_trade", "'<other>'"),
            ("symbol", "'XAUUSD'"),
            ("type", "'SELL'"),
            ("opened_volume", "9"),
            ("open_price", "9"),
            ("opened_at", "now()"),
            ("volume", "0.10000001"),
            ("volume", "'NaN'"),
            ("symbol", "null"),
            ("type", "null"),
            ("open_price", "null"),
            ("ticket_id", "null"),
        ]
    ),
    *(
        (
            f"a hot row with {name} {value}",
            [f"update active_trades set {name} = {value} where trade_id = '<open>'"],
            expected,
        )
        for name, value, expected in [
            ("volume", "0", "active_trade_volume_is_positive_and_never_grows"),
            ("volume", "-1", "active_trade_volume_is_positive_and_never_grows"),
            ("volume", "null", MISSING),
            ("status", "null", MISSING),
            ("status", "'SHUT'", "active_trade_status_is_open"),
            ("status", "'CLOSED'", "22001"),
            ("sl", "0", "active_trade_sl_is_positive"),
            ("tp", "-1", "active_trade_tp_is_positive"),
            ("sl", "'NaN'", "active_trade_amounts_are_numbers"),
            ("tp", "'NaN'", "active_trade_amounts_are_numbers"),
            ("sl", "'Infinity'", "22003"),
        ]
    ),
    (
        "a reduced trade enlarged",
        ["update active_trades set volume = opened_volume where trade_id = '<other>'"],
        IDENTITY,
    ),
    (
        "a reduced trade enlarged by ON CONFLICT",
        [f"{hot()} on conflict (trade_id) do update set volume = 0.1"],
        IDENTITY,
    ),
    (
        "a reduced trade enlarged by MERGE",
        [merge("active_trades", "t.trade_id = '<other>'", "update set volume = 0.1")],
        IDENTITY,
    ),
    (
        "a copy turned into a provider's trade",
        ["update active_trades set master_trade = null where trade_id = '<copy>'"],
        IDENTITY,
    ),
    ("a hot row replaced by a larger one", [UNHOUSE, hot(**ID_1, volume="9", opened_volume="9")], IDENTITY),
    ("a hot row replaced by another trade's", [UNHOUSE, hot(**ID_1, symbol="XAUUSD", type="SELL")], IDENTITY),
    ("a hot row replaced by an equal one", [UNHOUSE, hot(**ID_1)], IDENTITY),
    (
        "a hot row above the opened volume",
        [UNHOUSE, hot(**ID_1, volume="9")],
        "active_trade_volume_is_positive_and_never_grows",
    ),
    *(
        (f"a hot row without {name}", [UNHOUSE, hot(**{**ID_1, name: None})], MISSING)
        for name in ("trade_id", "status", "account_id", "ticket_id", "volume")
    ),
]

STREAM_CHANGED = [
    (f"a stream's number {what}", [f"update strategies set last_seq = {value} where name = 'lena-eurusd'"], expected)
    for what, value, expected in [
        ("two further", "last_seq + 2", STREAM),
        ("back by one", "last_seq - 1", STREAM),
        ("at nought", "0", STREAM),
        ("forgotten", "null", MISSING),
        ("at the end of numbers", "9223372036854775807", STREAM),
    ]
]

EVERY_TRICK = [
    *ZOMBIES,
    *TWO_HOMES,
    *LOST,
    *EMPTIED,
    *HISTORY_CHANGED,
    *FALSE_HISTORY,
    *IDENTITY_CHANGED,
    *OPENING_CHANGED,
    *STREAM_CHANGED,
]
