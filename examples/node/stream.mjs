// The stream as an async generator of events. It reconnects, and checks the sequence numbers.
// See docs/stream.md.
import { Refused, checkSnapshot } from "./desk.mjs";
import { PacketRefused, verifyPacket } from "./signing.mjs";
import { HandshakeRefused, connect } from "./websocket.mjs";

const PATH = "/ws/v2/active";
const SILENCE_MS = 15_000;
const POLICY = 1008;

/**
 * Yields, until `signal` aborts:
 *   {event: "connected"}                          a socket is open, its snapshot follows
 *   {event: "snapshot", snapshot}                 replaces the whole state
 *   {event: "delta", message, packet, refused}    `packet`: verified, or null; `refused`: the reason
 *   {event: "gap", strategy}                      an event is missing; a snapshot was requested
 *   {event: "lost", why, againMs}                 the socket closed; another is opened
 * Throws Refused where the key itself is refused.
 * `subscriptions`: {sub_id: {generation: packet secret}}.
 */
export async function* follow(desk, { subscriptions = {}, signal } = {}) {
  for (let failures = 0; !signal?.aborted; ) {
    const events = new Events();
    const stop = () => events.close(1000, "stopped");
    signal?.addEventListener("abort", stop, { once: true });
    let openedMs = 0, why;
    try {
      const socket = await desk.inTurn(() => connect({
        transport: desk.transport, url: desk.url, host: desk.host, path: PATH, headers: desk.headers("GET", PATH),
        timeoutMs: desk.timeoutMs, on: events,
      }));
      openedMs = performance.now();
      yield { event: "connected" };
      yield* session(socket, events, subscriptions);
      why = `closed: ${events.code} ${events.reason}`;
      if (events.code === POLICY) {
        throw new Refused(401, { code: "key_revoked", retry: "rotate", detail: events.reason }, false);
      }
    } catch (fault) {
      if (fault instanceof Refused) throw fault;
      if (fault instanceof HandshakeRefused) {
        if (["never", "rotate"].includes(fault.problem.retry)) throw new Refused(fault.status, fault.problem, false);
        desk.learnFrom(fault.problem);
      }
      why = fault.message;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
    if (signal?.aborted) return;
    if (openedMs && performance.now() - openedMs > 60_000) failures = 0;
    const againMs = Math.min(30_000, 500 * 2 ** failures++) * Math.random();
    yield { event: "lost", why, againMs };
    await pause(againMs, signal);
  }
}

/** Yield one socket's events until it closes. */
async function* session(socket, events, subscriptions) {
  const numbers = new Numbers();
  try {
    for (;;) {
      const text = await events.next(SILENCE_MS);
      if (text === null) return;
      const message = JSON.parse(text);
      if (message.type === "snapshot") {
        checkSnapshot(message, text);
        numbers.begin(message.as_of);
        yield { event: "snapshot", snapshot: message };
        continue;
      }
      const gap = numbers.gapIn(message);
      if (gap) {
        socket.send('{"type":"resync"}');
        yield { event: "gap", strategy: gap };
      }
      if (message.type.startsWith("trade.") && numbers.isNext(message)) {
        yield { event: "delta", message, ...verified(message, subscriptions) };
      }
    }
  } finally {
    socket.close();
  }
}

/** The packet is signed, the message is not: with another number, the packet is an old one or was swapped. */
function verified({ packet, seq }, subscriptions) {
  if (packet === undefined) return { packet: null, refused: "" };
  try {
    if (packet.seq !== seq) throw new PacketRefused(`the packet is numbered ${packet.seq}`);
    return { packet: verifyPacket(packet, subscriptions[packet.sub_id] ?? {}, packet.sub_id), refused: "" };
  } catch (fault) {
    if (!(fault instanceof PacketRefused)) throw fault;
    return { packet: null, refused: fault.message };
  }
}

/** The last number of each strategy. Numbers need 64 bits. */
class Numbers {
  #last = new Map();
  #ahead = new Map(); // by heartbeat
  #gaps = new Set();

  begin(asOf) {
    this.#last = new Map(Object.entries(asOf).map(([strategy, seq]) => [strategy, BigInt(seq)]));
    this.#ahead.clear();
    this.#gaps.clear();
  }

  /** Return the strategy with a missing event, once until the next snapshot. */
  gapIn(message) {
    const isHeartbeat = message.type === "heartbeat";
    const missing = isHeartbeat ? this.#behind(message.as_of) : this.#jumps(message) && message.strategy;
    if (!missing || this.#gaps.has(missing)) return undefined;
    this.#gaps.add(missing);
    return missing;
  }

  #jumps({ type, strategy, seq }) {
    if (!type.startsWith("trade.")) return false;
    const known = this.#last.get(strategy);
    return known === undefined || BigInt(seq) > known + 1n;
  }

  /** Return a strategy whose events have not reached the numbers of the heartbeat before. */
  #behind(asOf) {
    let behind;
    for (const [strategy, text] of Object.entries(asOf)) {
      const seq = BigInt(text), known = this.#last.get(strategy) ?? -1n;
      if (known < (this.#ahead.get(strategy) ?? -1n)) behind = strategy;
      if (seq > known) this.#ahead.set(strategy, seq);
      else this.#ahead.delete(strategy);
    }
    return behind;
  }

  /** Whether this delta is the next one; if so, record its number. */
  isNext({ strategy, seq }) {
    if (BigInt(seq) - 1n !== this.#last.get(strategy)) return false;
    this.#last.set(strategy, BigInt(seq));
    return true;
  }
}

/** A socket's events, for a reader that awaits them. */
class Events {
  code = 1006;
  reason = "";
  #texts = [];
  #wake = () => {};
  #isClosed = false;

  message = (text) => {
    this.#texts.push(text);
    this.#wake();
  };

  close = (code, reason) => {
    if (this.#isClosed) return;
    [this.#isClosed, this.code, this.reason] = [true, code, reason];
    this.#wake();
  };

  /** Return the next text; null after the socket has closed. Throws after `silenceMs` without a text. */
  async next(silenceMs) {
    if (!this.#texts.length && !this.#isClosed) {
      let timer;
      const silence = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`silent for ${silenceMs} ms`)), silenceMs);
      });
      const news = new Promise((resolve) => (this.#wake = resolve));
      await Promise.race([news, silence]).finally(() => clearTimeout(timer));
    }
    return this.#texts.shift() ?? null;
  }
}

const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
});
