// A provider's bot: opens, modifies, reduces and closes one trade, then shows that it cannot be opened again.
//   COPYDESK_URL=… COPYDESK_KEY=… COPYDESK_SECRET=… node provider.mjs [ticket]
import { Desk, Refused } from "./desk.mjs";

const { COPYDESK_URL: url, COPYDESK_KEY: key, COPYDESK_SECRET: secret } = process.env;
const ticket = process.argv[2] ?? String(Date.now());
if (!url || !key || !secret) {
  console.error("Set COPYDESK_URL, COPYDESK_KEY and COPYDESK_SECRET.");
  process.exit(2);
}
const desk = new Desk({ url, key, secret });
const show = (what, body) => console.log(JSON.stringify({ what, status: body.status, seq: body.seq }));

// The idempotency keys consist of what survives a restart, so this program may be run again at any point.
const prices = { open_price: "1.10500", sl: "1.10000" };
const trade = { ticket_id: ticket, symbol: "EURUSD", type: "BUY", volume: "0.10", ...prices };
show("open", await desk.open(trade, `open-${ticket}-0000000000`));
show("modify", await desk.modify(ticket, { sl: "1.10200" }, `modify-${ticket}-1.10200`.replaceAll(".", "_")));
const part = { deal_id: `${ticket}-1`, volume: "0.05", close_price: "1.10800", profit: "15.00" };
show("reduce", await desk.reduce(ticket, part, `reduce-${ticket}-00000001`));
const active = await desk.active();
console.log(JSON.stringify({ what: "active", tickets: active.trades.map((row) => [row.ticket_id, row.volume]) }));
const end = { close_price: "1.11000", profit: "25.00", reason: "TP" };
show("close", await desk.close(ticket, end, `close-${ticket}-000000000`));
try {
  await desk.open(trade, `again-${ticket}-000000000`);
} catch (fault) {
  if (!(fault instanceof Refused)) throw fault;
  console.log(JSON.stringify({ what: "open again", code: fault.code, retry: fault.retry }));
}
desk.agent.destroy();
