// The signed API: one call has one effect, and is repeated until its outcome is certain. See docs/protocol.md.
import http from "node:http";
import https from "node:https";
import { randomBytes } from "node:crypto";
import { isEtagGenuine, isGenuine, sha256, signRequest } from "./signing.mjs";

/** The desk refused. `mayHaveHappened`: an attempt may have had its effect, for no response proves its outcome. */
export class Refused extends Error {
  constructor(status, problem, mayHaveHappened) {
    super(`${problem.code}: ${problem.detail}`);
    Object.assign(this, { status, problem, code: problem.code, retry: problem.retry, mayHaveHappened });
  }
}

/** The outcome is not certain. Call again with the same `idempotencyKey` and fields, or read the active trades. */
export class OutcomeUnknown extends Error {
  constructor(why, idempotencyKey) {
    super(`${why}: the outcome is unknown`);
    this.idempotencyKey = idempotencyKey;
  }
}

// Refusals given before the desk knows the caller, so that it cannot sign them. The desk's own have no effect, but
// anybody on the way can write one after the desk executed the request: of a write they prove nothing.
const UNSIGNED = new Set([
  "body_too_large", "https_required", "request_malformed", "idempotency_key_missing", "rate_limited",
  "clock_outside_window", "signature_invalid", "history_closed_to_bots", "not_found",
]);
const MOST_UNPROVEN = 3; // unsigned refusals of one write, before the caller reads of them
const REPEATED = new Set(["new_seq", "same_key", "after"]);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Desk {
  #secret;
  #seq = BigInt(Date.now()) * 1000n; // microseconds: above the numbers of earlier runs, without a file
  #offsetMs = 0; // how far the desk's clock is ahead, by signed responses
  #clockIsSet = false;
  #turn = Promise.resolve();

  /** `url`: "https://desk.example". Use one object for each key: two senders would use up each other's numbers. */
  constructor({ url, key, secret, windowMs = 5000, timeoutMs = 10_000, attempts = 6, patienceMs = 60_000 }) {
    this.url = new URL(url);
    this.host = this.url.host; // lower case, without the scheme's default port, as sent
    this.key = key;
    this.#secret = secret;
    Object.assign(this, { windowMs, timeoutMs, attempts, patienceMs });
    this.transport = this.url.protocol === "https:" ? https : http;
    this.agent = new this.transport.Agent({ keepAlive: true });
  }

  deskMs() {
    return Date.now() + this.#offsetMs;
  }

  /** Return signed headers with the next number. */
  headers(method, path, query = "", body = Buffer.alloc(0), idempotencyKey = "") {
    this.#seq += 1n;
    const timeMs = Date.now() + this.#offsetMs;
    const host = this.host.replace(/:443$/, "");
    const signature = signRequest(this.#secret, {
      method, host, path, query, key: this.key, timeMs, windowMs: this.windowMs, seq: this.#seq, idempotencyKey, body,
    });
    return {
      "X-Cd-Key": this.key,
      "X-Cd-Time": String(timeMs),
      "X-Cd-Window": String(this.windowMs),
      "X-Cd-Seq": String(this.#seq),
      "X-Cd-Sig": `v1=${signature}`,
      ...(idempotencyKey && { "Idempotency-Key": idempotencyKey }),
      ...(body.length && { "Content-Type": "application/json", "Content-Length": body.length }),
    };
  }

  // --- the verbs

  /** Return the active trades, from a verified response; null where they still have this `etag`. */
  async active({ etag = "" } = {}) {
    const { status, body, text, etag: signedEtag } = await this.call("GET", "/api/v2/trades/active", { etag });
    if (status !== 304) checkSnapshot(body, text);
    this.etag = signedEtag; // of this response, or empty where the desk did not sign it
    return body;
  }

  open(fields, idempotencyKey) {
    return this.#effect("POST", "/api/v2/trades/active", { fields, idempotencyKey });
  }

  modify(ticket, stops, idempotencyKey) {
    return this.#effect("PATCH", `/api/v2/trades/active/${ticket}`, { fields: stops, idempotencyKey });
  }

  /** `volume` is the volume that must remain open. */
  reduce(ticket, { deal_id, volume, close_price, profit }, idempotencyKey) {
    const fields = { deal_id, volume, close_price, profit };
    return this.#effect("POST", `/api/v2/trades/active/${ticket}/reduce`, { fields, idempotencyKey });
  }

  close(ticket, { close_price, profit, reason = "MANUAL" }, idempotencyKey) {
    const parameters = Object.entries({ close_price, profit, reason });
    const query = parameters.map(([name, value]) => `${name}=${exact(name, value)}`).join("&");
    return this.#effect("DELETE", `/api/v2/trades/active/${ticket}`, { query, idempotencyKey });
  }

  async #effect(method, path, more) {
    return (await this.call(method, path, more)).body;
  }

  // --- one call

  /** Return the verified response {status, headers, body, text}. Throws Refused or OutcomeUnknown. */
  call(method, path, { query = "", fields, idempotencyKey, etag = "" } = {}) {
    const fresh = () => `${method.toLowerCase()}-${randomBytes(12).toString("hex")}`;
    const effect = method === "GET" ? "" : (idempotencyKey ?? fresh());
    const body = fields === undefined ? Buffer.alloc(0) : Buffer.from(encoded(fields));
    return this.inTurn(() => this.#attempts({ method, path, query, body, effect, etag }));
  }

  /** Run one request at a time, because numbers must arrive in order. A handshake takes its turn too. */
  inTurn(work) {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => {});
    return mine;
  }

  async #attempts(request) {
    const untilMs = performance.now() + this.patienceMs;
    let wasSilent = false, unproven = 0;
    for (let attempt = 1; ; attempt += 1) {
      const { answer, why } = await this.#attempt(request).catch((fault) => ({ why: fault.message }));
      if (answer?.status < 400) return answer;
      const problem = answer?.problem ?? {};
      const isCertain = answer !== undefined && answer.status < 500;
      if (isCertain && !answer.isSigned && request.effect) unproven += 1;
      wasSilent ||= !isCertain || unproven > 0;
      const isTriedAgain = REPEATED.has(problem.retry) || (unproven > 0 && unproven < MOST_UNPROVEN);
      if (isCertain && !isTriedAgain) throw new Refused(answer.status, problem, wasSilent);
      this.learnFrom(problem);
      const waitMs = (problem.retry_after_ms ?? 0) + Math.min(3000, 100 * 2 ** attempt) * Math.random();
      if (attempt >= this.attempts || performance.now() + waitMs > untilMs) {
        const isRefused = isCertain && !(answer.isSigned && wasSilent && request.effect);
        if (isRefused) throw new Refused(answer.status, problem, wasSilent);
        throw new OutcomeUnknown(why ?? `${answer.status} ${problem.code ?? ""}`, request.effect);
      }
      await sleep(waitMs);
    }
  }

  /** Make one attempt. Throws where there is no response, or one that the desk cannot have given to this request. */
  async #attempt({ method, path, query, body, effect, etag }) {
    const headers = { ...this.headers(method, path, query, body, effect), ...(etag && { "If-None-Match": etag }) };
    const sentMs = Date.now();
    const answer = await this.#exchange(method, query ? `${path}?${query}` : path, headers, body);
    const timeMs = answer.headers["x-cd-response-time"];
    const signature = answer.headers["x-cd-response-sig"];
    const requestSignature = headers["X-Cd-Sig"].slice("v1=".length);
    const signed = { requestSignature, status: answer.status, timeMs, body: answer.bytes };
    answer.isSigned = isGenuine(this.#secret, signed, signature);
    const given = answer.headers.etag ?? "";
    const isGiven = isEtagGenuine(this.#secret, signed, given, answer.headers["x-cd-response-etag-sig"]);
    answer.etag = isGiven ? given : "";
    if (answer.status === 304 && !(etag && answer.etag === etag)) {
      throw new Error(`${method} ${path} was answered 304 about another ETag than was sent`);
    }
    if (answer.isSigned) this.#learn(Number(timeMs), sentMs);
    else if (signature !== undefined || !(answer.status >= 500 || UNSIGNED.has(answer.problem?.code))) {
      throw new Error(`${method} ${path} was answered ${answer.status} without the desk's signature`);
    }
    return { answer };
  }

  #exchange(method, path, headers, body) {
    const hostname = this.url.hostname.replace(/^\[|\]$/g, "");
    const { port } = this.url;
    return new Promise((resolve, reject) => {
      const options = { method, hostname, port, path, headers: { ...headers, Host: this.host }, agent: this.agent };
      const request = this.transport.request(options, (response) => {
        const parts = [];
        response.on("data", (part) => parts.push(part));
        response.on("error", reject);
        response.on("end", () => {
          try {
            resolve(read(response, Buffer.concat(parts)));
          } catch (fault) {
            reject(fault);
          }
        });
      });
      const timer = setTimeout(() => request.destroy(new Error("no answer in time")), this.timeoutMs);
      request.on("close", () => clearTimeout(timer));
      request.on("error", reject);
      request.end(body);
    });
  }

  /** The desk responded between sending and now, which bounds its clock's offset; fast responses narrow the bounds. */
  #learn(deskMs, sentMs) {
    const now = Date.now();
    const least = deskMs - now, most = deskMs - sentMs;
    if (this.#clockIsSet) this.#offsetMs = Math.max(least, Math.min(most, this.#offsetMs));
    else [this.#offsetMs, this.#clockIsSet] = [Math.round((least + most) / 2), true];
  }

  /** Take from a refusal the number that the next attempt needs. Signed responses alone set the clock. */
  learnFrom(problem) {
    if (problem.code === "seq_replayed" && /^[0-9]{1,18}$/.test(problem.last_seq ?? "")) {
      const last = BigInt(problem.last_seq);
      if (last > this.#seq) this.#seq = last;
    }
  }
}

function read(response, bytes) {
  const { statusCode: status, headers } = response;
  const text = bytes.toString("utf8");
  const isJson = /json/.test(headers["content-type"] ?? "");
  const body = isJson && bytes.length ? JSON.parse(text) : null;
  const problem = status >= 400 && body !== null ? body : undefined;
  return { status, headers, bytes, text, body, problem };
}

/** Return JSON with amounts as text. JavaScript's numbers are floats, which cannot hold prices exactly. */
function encoded(fields) {
  return JSON.stringify(fields, exact);
}

function exact(name, value) {
  if (typeof value === "number" && !Number.isSafeInteger(value)) throw new TypeError(`${name} is a float: give text`);
  return value;
}

/** Throws where the rows differ from the snapshot's count and digest. `text`: the snapshot as received. */
export function checkSnapshot(snapshot, text) {
  const rows = text.slice(text.indexOf('"trades":') + '"trades":'.length, text.lastIndexOf("}"));
  const isComplete = snapshot.count === snapshot.trades.length && snapshot.digest === sha256(rows);
  if (!isComplete) throw new Error("the snapshot is incomplete");
}
