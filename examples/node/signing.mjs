// Signatures of requests, responses and packets. See docs/protocol.md and docs/stream.md.
import { createHash, createHmac, timingSafeEqual } from "node:crypto";

export const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

// The HMAC key is the secret as shown: its ASCII characters, not the bytes to which they decode.
export const hmac = (secret, text) => createHmac("sha256", Buffer.from(secret, "ascii")).update(text).digest("hex");

function agrees(expected, given) {
  const a = Buffer.from(expected), b = Buffer.from(String(given).toLowerCase());
  return a.length === b.length && timingSafeEqual(a, b);
}

/** Return the eleven lines of a request. `body`: a Buffer, empty where there is none. */
export function canonicalRequest({ method, host, path, query, key, timeMs, windowMs, seq, idempotencyKey, body }) {
  return [
    "CD1-HMAC-SHA256", method, host, path, query, key, timeMs, windowMs, seq, idempotencyKey || "-", sha256(body),
  ].join("\n");
}

export const signRequest = (secret, request) => hmac(secret, canonicalRequest(request));

/** Return the five lines of a response. `requestSignature`: without "v1=". */
export function canonicalAnswer({ requestSignature, status, timeMs, body }) {
  return ["CD1-RESPONSE", requestSignature, status, timeMs, sha256(body)].join("\n");
}

/** Whether the desk gave this response to this request. `signature`: the value of X-Cd-Response-Sig. */
export function isGenuine(secret, answer, signature) {
  return agrees(`v1=${hmac(secret, canonicalAnswer(answer))}`, signature ?? "");
}

/** Whether the desk gave this response with this ETag. `signature`: the value of X-Cd-Response-Etag-Sig. */
export function isEtagGenuine(secret, { requestSignature, status, timeMs, body }, etag, signature) {
  const lines = ["CD1-RESPONSE-ETAG", requestSignature, status, timeMs, sha256(body), etag];
  return etag !== "" && agrees(`v1=${hmac(secret, lines.join("\n"))}`, signature ?? "");
}

// --- packets

export const NINE = ["sub_id", "seq", "timestamp", "symbol", "type", "volume", "price", "sl", "tp"];
const TAIL = ["action", "trade_ref", "gen"];
const AMOUNT = "(?:0|[1-9][0-9]{0,9})\\.[0-9]{8}";
const GRAMMAR = {
  sub_id: "[A-Za-z0-9-]{1,64}",
  seq: "[1-9][0-9]{0,18}",
  timestamp: "[1-9][0-9]{12}",
  symbol: "[A-Za-z0-9._#/+&!@$^~-]{1,32}",
  type: "BUY|SELL",
  volume: AMOUNT,
  price: `-?${AMOUNT}`,
  sl: `(?:${AMOUNT})?`,
  tp: `(?:${AMOUNT})?`,
  action: "OPEN|MODIFY|REDUCE|CLOSE",
  trade_ref: "[A-Za-z0-9-]{1,64}",
  gen: "[1-9][0-9]{0,8}",
};
const GAPFILL = {
  ...GRAMMAR, symbol: "-", type: "-", volume: "0\\.00000000", price: "0\\.00000000", sl: "", tp: "", action: "GAPFILL",
  trade_ref: GRAMMAR.seq,
};
const MOST_SEQ = 2n ** 63n - 1n;
const isZero = (amount) => /^[0.]*$/.test(amount);

export class PacketRefused extends Error {}

export const packetKey = (secret) => hmac(secret, "copydesk/packet/v1");

/** Return the packet if its generation's secret signed it and each field is valid; throws PacketRefused. */
export function verifyPacket(packet, secretsByGeneration, subId) {
  for (const name of [...NINE, ...TAIL]) {
    if (typeof packet?.[name] !== "string") throw new PacketRefused(`${name} is missing or is not text`);
  }
  const secret = secretsByGeneration[packet.gen];
  if (!secret) throw new PacketRefused(`the packet secret of generation ${packet.gen} is unknown`);
  const payload = [...NINE.map((name) => packet[name]), "CP1", ...TAIL.map((name) => packet[name])].join("|");
  if (!agrees(hmac(packetKey(secret), payload), packet.signature_v1)) throw new PacketRefused("the signature is wrong");
  checkGrammar(packet, [...NINE, ...TAIL]);
  if (packet.sub_id !== subId) throw new PacketRefused("the packet belongs to another subscription");
  return packet;
}

/** Verify the nine fields by `signature`, the first documents' form, which has neither action nor trade. */
export function verifyNineFields(fields, secret, signature) {
  if (!agrees(hmac(secret, NINE.map((name) => fields[name]).join("|")), signature)) {
    throw new PacketRefused("the signature is wrong");
  }
  checkGrammar(fields, NINE);
  return fields;
}

function checkGrammar(packet, names) {
  const isGapfill = packet.action === "GAPFILL";
  const grammar = isGapfill ? GAPFILL : GRAMMAR;
  for (const name of names) {
    if (!new RegExp(`^(?:${grammar[name]})$`).test(packet[name]) || packet[name].endsWith("\n")) {
      throw new PacketRefused(`${name} is ${JSON.stringify(packet[name].slice(0, 40))}`);
    }
  }
  if (BigInt(packet.seq) > MOST_SEQ) throw new PacketRefused("seq is too large");
  if (isGapfill && BigInt(packet.trade_ref) !== BigInt(packet.seq) + 1n) {
    throw new PacketRefused("a GAPFILL names the next number");
  }
  for (const stop of [packet.sl, packet.tp]) {
    if (stop && isZero(stop)) throw new PacketRefused("a stop is zero; without a stop the field is empty");
  }
  if (!isGapfill && packet.action !== "CLOSE" && isZero(packet.volume)) throw new PacketRefused("the volume is zero");
}
