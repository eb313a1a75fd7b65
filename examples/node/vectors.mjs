// All published vectors through this client: node vectors.mjs [docs/vectors.json]. Exit 1 where one fails.
import { readFileSync } from "node:fs";
import {
  NINE, PacketRefused, canonicalAnswer, canonicalRequest, hmac, isGenuine, packetKey, sha256, signRequest,
  verifyNineFields, verifyPacket,
} from "./signing.mjs";

const file = process.argv[2] ?? new URL("../../docs/vectors.json", import.meta.url);
const vectors = JSON.parse(readFileSync(file, "utf8"));
const { request_secret: secret, packet_secret: packetSecret } = vectors;
let checked = 0;
const failed = [];

function check(name, isMet) {
  checked += 1;
  if (!isMet) failed.push(name);
}

function refuses(work) {
  try {
    work();
  } catch (fault) {
    if (fault instanceof PacketRefused) return fault.message;
    throw fault;
  }
  return "";
}

for (const vector of vectors.requests) {
  const body = Buffer.from(vector.body);
  const request = {
    ...vector, timeMs: vector.time, windowMs: vector.window, body,
    idempotencyKey: vector.idempotency_key === "-" ? "" : vector.idempotency_key,
  };
  check(`${vector.name} body`, sha256(body) === vector.body_sha256);
  check(`${vector.name} canonical`, canonicalRequest(request) === vector.canonical);
  check(`${vector.name} signature`, signRequest(secret, request) === vector.signature);
}

const { to, status, time: timeMs, body: text, canonical, signature } = vectors.response;
const answer = {
  requestSignature: vectors.requests.find(({ name }) => name === to).signature, status, timeMs, body: Buffer.from(text),
};
check("response canonical", canonicalAnswer(answer) === canonical);
check("response", isGenuine(secret, answer, `v1=${signature}`));
check("response in upper case", isGenuine(secret, answer, `v1=${signature.toUpperCase()}`));
check("response with another body", !isGenuine(secret, { ...answer, body: Buffer.from("{}") }, `v1=${signature}`));
check("response without a signature", !isGenuine(secret, answer, undefined));

for (const vector of [...vectors.packets, ...vectors.packets_mac_ok_but_grammar_refused]) {
  const fields = Object.fromEntries(NINE.map((name, at) => [name, vector.fields[at]]));
  check(`${vector.name} payload`, vector.fields.join("|") === vector.payload);
  check(`${vector.name} mac`, hmac(packetSecret, vector.payload) === vector.signature);
  const refused = refuses(() => verifyNineFields(fields, packetSecret, vector.signature));
  const isRefusedByGrammar = refused !== "" && !/signature/.test(refused);
  check(`${vector.name} accepted or not`, vector.accept ? refused === "" : isRefusedByGrammar);
}

const secrets = { 1: packetSecret };
check("derived key", packetKey(packetSecret) === vectors.packets_v1.derived_key);
for (const vector of vectors.packets_v1.vectors) {
  const texts = vector.payload.split("|"); // works for vectors; real packets are never split
  const [action, trade_ref, gen] = texts.slice(10);
  const nine = Object.fromEntries(NINE.map((name, at) => [name, texts[at]]));
  const packet = { ...nine, action, trade_ref, gen, signature_v1: vector.signature };
  const read = (changed, of = packet.sub_id) => refuses(() => verifyPacket({ ...packet, ...changed }, secrets, of));
  check(`${vector.name} mac`, hmac(packetKey(packetSecret), vector.payload) === vector.signature);
  check(`${vector.name} read`, (read({}) === "") === (action !== "HEARTBEAT")); // HEARTBEAT is reserved
  check(`${vector.name} of another subscription`, read({}, "8") !== "");
  check(`${vector.name} with another action`, /signature/.test(read({ action: action === "OPEN" ? "CLOSE" : "OPEN" })));
}

for (const mistake of Object.values(vectors.recognisable_mistakes_for_K1)) {
  check("a known mistake", hmac(packetSecret, vectors.packets[0].payload) !== mistake);
}
check("RFC 4231", hmac(vectors.rfc4231_2.key, vectors.rfc4231_2.data) === vectors.rfc4231_2.mac);

console.log(JSON.stringify({ checked, failed }));
process.exit(failed.length || !checked ? 1 : 0);
