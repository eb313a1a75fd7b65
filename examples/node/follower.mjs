// Follows the stream and prints one line for each event; packets are verified. Ends with Ctrl-C.
//   COPYDESK_URL=… COPYDESK_KEY=… COPYDESK_SECRET=… \
//   COPYDESK_SUB_ID=… COPYDESK_PACKET_SECRET=… node follower.mjs
import { Desk, Refused } from "./desk.mjs";
import { follow } from "./stream.mjs";

const { COPYDESK_URL: url, COPYDESK_KEY: key, COPYDESK_SECRET: secret } = process.env;
const { COPYDESK_SUB_ID: subId, COPYDESK_PACKET_SECRET: packetSecret, COPYDESK_PACKET_GEN: gen = "1" } = process.env;
if (!url || !key || !secret) {
  console.error("Set COPYDESK_URL, COPYDESK_KEY and COPYDESK_SECRET.");
  process.exit(2);
}
const desk = new Desk({ url, key, secret });
const ended = new AbortController();
for (const name of ["SIGINT", "SIGTERM"]) process.on(name, () => ended.abort());
const show = (line) => console.log(JSON.stringify(line));

try {
  const subscriptions = subId ? { [subId]: { [gen]: packetSecret } } : {};
  for await (const event of follow(desk, { subscriptions, signal: ended.signal })) {
    if (event.event === "snapshot") {
      // The socket's snapshot is only a signal; a copier acts on the signed one.
      const { as_of, stream_epoch, trades } = await desk.active();
      const mustHold = trades.filter((row) => row.role === "master").map((row) => [row.trade_id, row.copy?.volume]);
      show({ event: "snapshot", as_of, stream_epoch, must_hold: mustHold });
    } else if (event.event === "delta") {
      const { packet, refused, message: { type, strategy, seq, trade } } = event;
      const shown = packet && { action: packet.action, trade_ref: packet.trade_ref, volume: packet.volume };
      show({ event: type, strategy, seq, ticket: trade.ticket_id, refused, packet: shown });
    } else show(event);
  }
} catch (fault) {
  if (!(fault instanceof Refused)) throw fault;
  show({ event: "refused", code: fault.code, why: fault.message });
  process.exitCode = 1;
}
desk.agent.destroy();
